"""Copies of the registry beside it, whole and anybody's to read; its own file is locked while the service runs."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

COPY_NAME: Final = "models.copy.sqlite3"
"""The registry as it was after its last change."""
RESTORED_NAME: Final = "models.restored.sqlite3"
"""What the service takes in place of its registry when it starts next."""
REPLACED_NAME: Final = "models.replaced.sqlite3"
"""What it had before it did that."""


def write_copy(connection: sqlite3.Connection, file: Path) -> None:
    """Copy a registry, WAL included, to a file of its own that is either the old one or whole.

    Raises:
        OSError: the folder cannot be written.
        sqlite3.Error: likewise, or the registry cannot be read.
    """
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        connection.backup(copy)
        # One file, without a journal that would have to go along.
        copy.execute("PRAGMA journal_mode=DELETE")
    os.replace(partial, file)


def take_restored(connection: sqlite3.Connection, folder: Path) -> bool:
    """Put what was restored in place of a registry, in one transaction; return whether there was anything.

    Args:
        connection: to the registry; holds its lock.
        folder: of the registry and its copies.

    Raises:
        OSError: the folder cannot be written.
        sqlite3.Error: likewise, or what was restored cannot be read.
    """
    restored = folder / RESTORED_NAME
    if not restored.exists():
        return False
    write_copy(connection, folder / REPLACED_NAME)
    with closing(sqlite3.connect(restored)) as source:
        source.backup(connection)
    restored.unlink()
    return True
