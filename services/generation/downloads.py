"""The store of fetched checkpoints: bounded, checksummed, and never seen half written."""

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from services.generation.errors import CheckpointError
from services.inference.adapters import CONFIG_FILE
from services.inference.checkpoints import CONTENT_PATTERNS
from services.runtime.errors import ResourceExhaustedError

_FILES = "files"
_MANIFEST = "manifest.json"
_PARTIAL = ".partial-"
_CHUNK_BYTES = 1 << 20
MAX_FILES = 1000
CHECKPOINT_PATTERNS = (*CONTENT_PATTERNS, CONFIG_FILE)
"""Names of the files that decide a model's answers; nothing else is fetched."""

Opener = Callable[[], IO[bytes]]


def is_wanted(name: str, patterns: Sequence[str] = CHECKPOINT_PATTERNS) -> bool:
    """Return whether a file of a remote folder is to be fetched."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class DownloadStore:
    """Keeps fetched folders by key, the least recently used ones are deleted.

    An entry appears by one rename, when all its files are written; a process that is killed leaves a partial folder,
    which the next start deletes.

    Args:
        folder: where; made if absent.
        max_bytes: bound on all entries together.
        in_use: returns the folders that must stay.
    """

    def __init__(self, folder: Path, max_bytes: int, in_use: Callable[[], Iterable[str]] = tuple) -> None:
        self.folder = folder.resolve()
        self._max_bytes = max_bytes
        self._in_use = in_use
        self._lock = threading.Lock()
        self._coming: dict[Path, int] = {}
        for partial in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)

    def find(self, key: str) -> Path | None:
        """Return an entry's folder, and count it as used now; an entry with other sizes than promised is deleted."""
        entry = self.folder / _name(key)
        try:
            manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
            is_whole = all((entry / _FILES / name).stat().st_size == told["size"] for name, told in manifest.items())
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            is_whole = False
        if not is_whole:
            shutil.rmtree(entry, ignore_errors=True)
            return None
        os.utime(entry)
        return entry / _FILES

    def add(self, key: str, files: Mapping[str, tuple[int, Opener]], *, taken_from: Path | None = None) -> Path:
        """Fetch an entry's files, each with the size that it must have, and return its folder.

        Args:
            key: of the entry.
            files: by name, size and content.
            taken_from: a partial folder of the store that holds these very files, which are not counted twice.

        Raises:
            CheckpointError: CHECKPOINT_CHANGED, a file is not as long as it was said to be; or too many files.
            ResourceExhaustedError: DOWNLOAD_TOO_LARGE, it does not fit into the store, or not beside what is in use.
        """
        total = sum(size for size, _ in files.values())
        if not 0 < len(files) <= MAX_FILES:
            raise CheckpointError(f"there are {len(files)} files to fetch; a checkpoint has 1 to {MAX_FILES}")
        if total > self._max_bytes:
            raise _too_large(f"the checkpoint has {total} bytes, the store of fetched ones holds {self._max_bytes}")
        partial = self.folder / f"{_PARTIAL}{uuid.uuid4().hex}"
        entry = self.folder / _name(key)
        with self._lock:
            self._make_room(total, taken_from)
            self._coming[partial] = total
        # Without the lock: a source that is slow holds up nobody else.
        try:
            (partial / _FILES).mkdir(parents=True)
            manifest = {name: _copy(partial / _FILES / name, *told) for name, told in files.items()}
            (partial / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            with self._lock:
                # Somebody else may have brought the same meanwhile, and use it already.
                if self.find(key) is None:
                    partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with self._lock:
                del self._coming[partial]
        return entry / _FILES

    def _make_room(self, needed: int, taken_from: Path | None) -> None:
        entries = sorted((each for each in self.folder.glob("[0-9a-f]*")), key=lambda each: each.stat().st_mtime)
        sizes = {each: _bytes_below(each) for each in entries}
        # What others are writing is counted in full; what a library fetches, with what it has by now.
        fetching = (each for each in self.folder.glob(f"{_PARTIAL}*") if each not in self._coming)
        coming = sum(self._coming.values()) + sum(_bytes_below(each) for each in fetching if each != taken_from)
        kept = set(self._in_use())
        for entry in entries:
            if sum(sizes.values()) + coming + needed <= self._max_bytes:
                return
            if str(entry / _FILES) not in kept:
                shutil.rmtree(entry, ignore_errors=True)
                del sizes[entry]
        if (taken := sum(sizes.values()) + coming) + needed > self._max_bytes:
            raise _too_large(
                f"the checkpoint has {needed} bytes, and of the {self._max_bytes} of the store of fetched ones {taken} "
                "are in use by models that are loaded or being fetched; delete a model"
            )


def _too_large(problem: str) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"{problem}; the operator allows more with EVALFLEET_DOWNLOAD_BYTES", reason="DOWNLOAD_TOO_LARGE"
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            # A hub's library keeps files once and links to them.
            total += 0 if file.is_symlink() or not file.is_file() else file.stat().st_size
        except OSError:
            continue  # gone since it was listed
    return total


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _copy(target: Path, size: int, opened: Opener) -> dict[str, object]:
    digest, count = hashlib.sha256(), 0
    with opened() as stream, target.open("wb") as file:
        while count <= size and (chunk := stream.read(_CHUNK_BYTES)):
            file.write(chunk)
            digest.update(chunk)
            count += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if count != size:
        raise CheckpointError(
            f"{target.name} was to have {size} bytes and has {count}: it changed while it was fetched, or was cut off",
            reason="CHECKPOINT_CHANGED",
        )
    return {"size": count, "sha256": digest.hexdigest()}
