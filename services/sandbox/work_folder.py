"""The folder that a service's sandboxes are made from, and those that killed services left behind."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "evalfleet-sandbox-"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """A folder that is this process's as long as it holds the lock in it; the kernel lets go of that for a dead one."""

    path: Path
    _lock_fd: int

    @classmethod
    def make(cls) -> "WorkFolder":
        """Make one among the temporary files, readable for the sandboxes' user."""
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        path.chmod(0o755)
        lock_fd = os.open(path / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        # Nobody finds it under this name without its being locked.
        (path / "new").rename(path / _LOCK)
        return cls(path, lock_fd)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def remove_abandoned() -> list[str]:
    """Remove the folders of processes that ended without removing theirs; return their names."""
    removed = []
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
                removed.append(path.name)
            finally:
                os.close(lock_fd)
    return removed
