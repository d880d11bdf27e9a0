"""Removes what a program left in the folder that it could write to."""

import itertools
import os
import stat
from pathlib import Path


def remove_leftovers(folder: Path) -> None:
    """Empty a folder, however deep and closed what lies in it. Blocks.

    Folders are emptied into the top one instead of descended into: no depth, and no length of a path, is too much.

    Raises:
        OSError: something cannot be removed.
    """
    numbers = itertools.count()
    while names := os.listdir(folder):
        for name in names:
            path = folder / name
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
                continue
            path.chmod(0o700)
            for inner in os.listdir(path):
                found = path / inner
                if stat.S_ISDIR(found.lstat().st_mode):
                    # Its own entry for the folder above changes with it, for which it must be writable.
                    found.chmod(0o700)
                    found.rename(_unused(folder, numbers))
                else:
                    found.unlink()
            path.rmdir()


def _unused(folder: Path, numbers: "itertools.count[int]") -> Path:
    while (path := folder / f"left-{next(numbers)}").is_symlink() or path.exists():
        pass
    return path
