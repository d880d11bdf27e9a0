"""Checkpoint folders: where they may lie, what they must hold, and how their content is told apart."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from services.generation.errors import CHECKPOINT_FIELD, CheckpointError, CheckpointPathError
from services.inference.adapters import inspect_adapter
from services.inference.checkpoints import (
    LINEAGE_PATTERNS,
    CheckpointFacts,
    content_digest,
    content_digests,
    inspect_checkpoint,
)
from services.inference.errors import as_fleet_errors
from services.runtime.errors import nearest_names

ResultT = TypeVar("ResultT")

_DIGEST_ATTEMPTS = 3
_REMEMBERED_DIGESTS = 64


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells cheaply that a file was written again; times in nanoseconds, as the file system keeps them."""

    name: str
    size_bytes: int
    modified_ns: int
    changed_ns: int


Fingerprint = tuple[FileStamp, ...]
"""The files of a checkpoint folder by name. Equal fingerprints mean equal content; unequal ones mean: hash again."""


class Content(NamedTuple):
    """What a checkpoint holds, as digests (SHA-256 in hex).

    Attributes:
        digest: of weights, configuration, tokenizer, chat template, adapter and dtype.
        fingerprint: the files that it was computed from.
        base_digest: the same without the adapter.
        lineage_digest: of configuration, tokenizer and chat template alone.
    """

    digest: str
    fingerprint: Fingerprint
    base_digest: str = ""
    lineage_digest: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder, with its adapter's if it has one, that passed all checks."""

    facts: CheckpointFacts
    fingerprint: Fingerprint
    adapter: Path | None = None

    @property
    def path(self) -> Path:
        """Its resolved folder."""
        return self.facts.path


def locate_checkpoint(path: str, roots: Sequence[Path], *, field: str = CHECKPOINT_FIELD) -> Path:
    """Resolve ``path`` and its symbolic links to a folder below one of ``roots``.

    Raises:
        CheckpointPathError: CHECKPOINT_OUTSIDE_ROOTS (whether or not it exists), CHECKPOINT_NOT_FOUND, or
            CHECKPOINT_PATH_INVALID.
    """
    try:
        folder = Path(path)
        if not folder.is_absolute():
            raise CheckpointPathError(f"{path!r} is a relative path; give the folder's absolute path", field=field)
        resolved = folder.resolve()
        _confine(resolved, roots, shown=path, field=field)
        exists, is_folder = resolved.exists(), resolved.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL character, a loop of links
        raise CheckpointPathError(f"{path!r} is no usable path: {error}", field=field) from error
    if not exists:
        raise CheckpointPathError(
            f"there is no folder {resolved}{_siblings_hint(resolved)}",
            reason="CHECKPOINT_NOT_FOUND",
            metadata={"path": str(resolved)},
            field=field,
        )
    if not is_folder:
        raise CheckpointPathError(
            f"{resolved} is a file; give the folder that holds it, {resolved.parent}", field=field
        )
    return resolved


def locate_tokenizer(path: str, roots: Sequence[Path]) -> Path:
    """Resolve ``path`` as ``locate_checkpoint`` does; no file in the folder may link out of the roots.

    Raises:
        CheckpointPathError: as ``locate_checkpoint``.
    """
    folder = locate_checkpoint(path, roots)
    _confine_files(folder, roots)
    return folder


def _confine_files(folder: Path, roots: Sequence[Path]) -> None:
    for file in folder.iterdir():
        if file.is_file():
            _confine(file.resolve(), roots, shown=str(file))


def _confine(resolved: Path, roots: Sequence[Path], *, shown: str, field: str = CHECKPOINT_FIELD) -> None:
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(str(root) for root in roots) or "none is configured"
        raise CheckpointPathError(
            f"{shown!r} does not lie below a checkpoint root ({allowed}); move it there, or add its folder to "
            "EVALFLEET_CHECKPOINT_ROOTS and restart the service",
            reason="CHECKPOINT_OUTSIDE_ROOTS",
            field=field,
        )


def _siblings_hint(missing: Path) -> str:
    try:
        near = nearest_names(missing.name, (entry.name for entry in missing.parent.iterdir()))
    except OSError:
        return ""
    return f"; did you mean {' or '.join(repr(str(missing.parent / name)) for name in near)}?" if near else ""


def read_checkpoint(path: str, roots: Sequence[Path], adapter_path: str = "") -> Checkpoint:
    """Check a checkpoint folder without reading its weights' values.

    Raises:
        CheckpointPathError: see ``locate_checkpoint``; or a file of the folder links out of the roots.
        FleetError: the folder lacks something that a model needs, asks for code of its own, or is damaged.
    """
    folder = locate_checkpoint(path, roots)
    adapter = locate_checkpoint(adapter_path, roots, field="adapter_path") if adapter_path else None
    # Stamped before reading, so that a write during the checks shows up as a change later.
    fingerprint = read_fingerprint(folder, adapter)
    for each in filter(None, (folder, adapter)):
        _confine_files(each, roots)
    try:
        with as_fleet_errors():
            facts = inspect_checkpoint(folder)
            if adapter is not None:
                inspect_adapter(adapter, facts)
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(
            f"{folder} cannot be read as a checkpoint ({type(error).__name__}: {error}); save it again",
            metadata={"path": str(folder)},
        ) from error
    if not facts.architecture:
        raise CheckpointError(
            f'{folder / "config.json"} names no architecture; add "architectures", e.g. ["LlamaForCausalLM"]',
            metadata={"path": str(folder)},
        )
    return Checkpoint(facts, fingerprint, adapter)


def read_fingerprint(folder: Path, adapter: Path | None = None) -> Fingerprint:
    """Stamp every file of ``folder`` and of its adapter (as ``adapter/NAME``).

    An unreadable folder has the empty fingerprint, which equals no content's.
    """
    try:
        stats = [(entry.name, entry.stat()) for entry in folder.iterdir() if entry.is_file()]
        if adapter is not None:
            stats += [(f"adapter/{entry.name}", entry.stat()) for entry in adapter.iterdir() if entry.is_file()]
    except OSError:
        return ()
    return tuple(FileStamp(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in sorted(stats))


async def compute_digest(folder: Path, dtype: str, adapter: Path | None = None) -> Content:
    """Hash weights, configuration, tokenizer, chat template, adapter and dtype, off the event loop.

    Raises:
        CheckpointError: CHECKPOINT_CHANGED, files are still being written, or vanished.
    """
    folders = (folder,) if adapter is None else (folder, adapter)
    for _ in range(_DIGEST_ATTEMPTS):
        before = await asyncio.to_thread(read_fingerprint, folder, adapter)
        try:
            digests = await _in_daemon_thread(lambda: content_digests(*folders, dtype=dtype))
            lineage = await asyncio.to_thread(content_digest, folder, patterns=LINEAGE_PATTERNS)
        except OSError as error:
            raise changed_checkpoint(folder) from error
        # A trainer may still write its own state beside the weights: that alone is no reason to refuse.
        if before and await asyncio.to_thread(read_fingerprint, folder, adapter) == before:
            return Content(digests[-1], before, digests[0], lineage)
    raise changed_checkpoint(folder)


_DigestKey = tuple[Path, Path | None, str, Fingerprint]


class ContentDigests:
    """Digests of checkpoint folders: hashed once, shared by all who wait, finished even if nobody waits any more.

    So a caller whose deadline is shorter than the hashing of a large checkpoint gets further by asking again.
    """

    def __init__(self) -> None:
        self._tasks: dict[_DigestKey, asyncio.Task[Content]] = {}

    async def digest(self, folder: Path, dtype: str, adapter: Path | None = None) -> Content:
        """Return what ``compute_digest`` does."""
        key = (folder, adapter, dtype, await asyncio.to_thread(read_fingerprint, folder, adapter))
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(compute_digest(folder, dtype, adapter), name=f"digest {folder}")
            task.add_done_callback(lambda done: self._forget_failure(key, done))
            self._tasks[key] = task
            for stale in [each for each, held in self._tasks.items() if held.done()][:-_REMEMBERED_DIGESTS]:
                del self._tasks[stale]
        return await asyncio.shield(task)

    def _forget_failure(self, key: _DigestKey, task: asyncio.Task[Content]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._tasks.pop(key, None)


def changed_checkpoint(folder: Path) -> CheckpointError:
    """Build the error for a checkpoint that is not what it was when it was registered."""
    return CheckpointError(
        f"{folder} was changed while or after it was registered; write checkpoints to a folder that then stays as it "
        "is, delete the model and register it again",
        reason="CHECKPOINT_CHANGED",
        metadata={"path": str(folder)},
    )


async def _in_daemon_thread(work: Callable[[], ResultT]) -> ResultT:
    """Await ``work`` in a thread that a stopping process does not wait for: hashing 100 GB takes minutes."""
    loop = asyncio.get_running_loop()
    finished: concurrent.futures.Future[ResultT] = concurrent.futures.Future()
    finished.set_running_or_notify_cancel()  # from here on a cancelled waiter leaves the thread alone

    def run() -> None:
        try:
            finished.set_result(work())
        except BaseException as error:  # noqa: BLE001 - a thread's end: whoever awaits the result gets the error
            finished.set_exception(error)

    threading.Thread(target=run, name="checkpoint-digest", daemon=True).start()
    return await asyncio.wrap_future(finished, loop=loop)
