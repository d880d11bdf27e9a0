"""The key that Triton's model control asks for: its launcher makes it, whoever loads models reads it."""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any, Final

import structlog

from services.runtime.errors import StartupError

PATIENCE_SECONDS: Final = 30.0
"""What starts beside the launcher may look before there is a key; only a file that stays away is a mistake."""
_LOOK_SECONDS: Final = 0.1
_log: Any = structlog.get_logger(__name__)


async def read_control_key(file: Path | None, *, patience_seconds: float = PATIENCE_SECONDS) -> str | None:
    """Return the key that a file holds, waiting for one that is not written yet; ``None`` without a file.

    Raises:
        StartupError: there is no key in time, or the file cannot be read.
    """
    if file is None:
        return None
    clock = asyncio.get_running_loop().time
    last_look = clock() + patience_seconds
    is_told = False
    while not (key := await asyncio.to_thread(_key_in, file)):
        if clock() >= last_look:
            raise StartupError(
                f"there is no model-control key in {file} after {patience_seconds:g} s; start Triton's launcher, or "
                "set EVALFLEET_TRITON_KEY_FILE to the file that it names"
            )
        if not is_told:
            _log.info("waiting_for_model_control_key", file=str(file))
            is_told = True
        await asyncio.sleep(_LOOK_SECONDS)
    return key


def read_or_make_key(path: Path) -> str:
    """Return the model-control key, making a random one where there is none; only its owner may read the file.

    The file appears with the whole key in it.

    Raises:
        StartupError: the file cannot be read or written.
    """
    try:
        if path.is_file() and (key := path.read_text(encoding="utf-8").strip()):
            return key
        key = secrets.token_hex(32)
        path.parent.mkdir(parents=True, exist_ok=True)
        unready = path.with_name(f"{path.name}.{os.getpid()}")
        unready.unlink(missing_ok=True)
        handle = os.open(unready, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(key)
        unready.replace(path)
    except OSError as error:
        raise StartupError(
            f"cannot use EVALFLEET_TRITON_KEY_FILE={path}: {error.strerror}; name a readable or new file",
            reason="KEY_FILE_NOT_USABLE",
        ) from error
    return key


def _key_in(file: Path) -> str:
    """Return the key in a file; empty where there is none yet."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"cannot read Triton's model-control key: {error}; set EVALFLEET_TRITON_KEY_FILE") from error
