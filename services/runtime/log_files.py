"""Keeps log files that other processes append to within a bound."""

import asyncio
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

PIECES: Final = 4
"""A log is a file and up to three older pieces of it, ``*.log.1`` to ``*.log.3``."""

_INTERVAL_SECONDS: Final = 1.0


async def keep_bounded(
    paths: Iterable[Path], max_bytes: int, *, interval_seconds: float = _INTERVAL_SECONDS
) -> NoReturn:
    """Bound logs again and again until cancelled; what is written within one interval comes on top.

    Args:
        paths: the files; one that is missing is looked for again.
        max_bytes: of each log with its older pieces.
        interval_seconds: pause between two looks.
    """
    log: Any = structlog.get_logger(__name__)
    paths = tuple(paths)
    while True:
        for path in paths:
            try:
                await asyncio.to_thread(bound, path, max_bytes)
            except OSError as error:
                # A full disk, for one: the log goes on, and so does whoever writes it.
                log.warning("log_not_bounded", path=str(path), problem=str(error))
        await asyncio.sleep(interval_seconds)


def bound(path: Path, max_bytes: int) -> None:
    """Set a log aside that has outgrown its share of ``max_bytes``; its writer goes on at the file's beginning.

    The writer must have opened it for appending. A line that it writes in the very moment may be lost. Older pieces go
    until all together fit; the newest one stays, however large it is.

    Raises:
        OSError: it cannot be copied.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size * PIECES <= max_bytes:
        return
    copy = _piece(path, 0)
    shutil.copy(path, copy)
    os.truncate(path, 0)
    _shift(path)
    copy.replace(_piece(path, 1))
    total = 0
    for number in range(1, PIECES):
        piece = _piece(path, number)
        total += piece.stat().st_size if piece.exists() else 0
        if number > 1 and total > max_bytes:
            piece.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Make a log that nobody writes to any more its own newest older piece; no log is no error.

    Raises:
        OSError: it cannot be renamed.
    """
    if path.exists():
        _shift(path)
        path.replace(_piece(path, 1))


def _shift(path: Path) -> None:
    """Make room for a new ``*.log.1``; the oldest piece goes."""
    for number in range(PIECES - 2, 0, -1):
        if _piece(path, number).exists():
            _piece(path, number).replace(_piece(path, number + 1))


def _piece(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
