"""A cache in an SQLite file: for one machine."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from services.runtime.cache import sqlite_file
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import NewEntry, RecentEntry
from services.runtime.errors import StartupError
from services.runtime.gathering import Gatherer

ResultT = TypeVar("ResultT")

_BATCH_DELAY_SECONDS: Final = 0.02
_LARGEST_LOOKUP: Final = 512
_LARGEST_BACKLOG_BYTES: Final = 64 * 1024 * 1024
_TIDY_SECONDS: Final = 1.0


class SqliteCacheStore:
    """Implements ``CacheStore``. Reads and writes have a thread each; writes are gathered into transactions.

    A process that is killed loses at most the entries of its last moments: a transaction is there or not, and every
    entry carries a checksum besides. When nothing is to be written for a moment, the journal beside the file is
    emptied.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, metrics: CacheMetrics, use_resolution_seconds: float = 60.0
    ) -> None:
        """Prepare; ``open`` does the work.

        Args:
            path: the file.
            max_bytes: bound of the entries; the file itself can be a tenth, and a batch of them, larger.
            metrics: counts.
            use_resolution_seconds: a use is noted if the last noted one is longer ago.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._use_resolution_seconds = use_resolution_seconds
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="cache-read")
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        # Handing work to a thread costs more than the look-up, so those of the same moment share it.
        self._lookups = Gatherer(self._read_rows, largest=_LARGEST_LOOKUP, concurrency=1)
        self._put: dict[bytes, NewEntry] = {}
        self._writing: dict[bytes, NewEntry] = {}
        self._removed: set[bytes] = set()
        self._used: dict[bytes, float] = {}
        self._backlog_bytes = 0
        self._total_bytes = 0
        # What an earlier process left may be larger than the bound of this one.
        self._is_untidy = True
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)

    @classmethod
    async def open(
        cls, path: Path, *, max_bytes: int, metrics: CacheMetrics, use_resolution_seconds: float = 60.0
    ) -> Self:
        """Open the file, making it if it is new.

        Raises:
            StartupError: the file cannot be made or opened.
        """
        store = cls(path, max_bytes=max_bytes, metrics=metrics, use_resolution_seconds=use_resolution_seconds)
        try:
            await store._run(store._writes, store._open)
        except (sqlite3.Error, OSError) as error:
            store._reads.shutdown(wait=False)
            store._writes.shutdown(wait=False)
            raise StartupError(f"cannot keep a cache in {path}: {error}; set EVALFLEET_CACHE_URL") from error
        store._writer = asyncio.create_task(store._keep_writing(), name="cache writer")
        return store

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values that are there."""
        found = {}
        elsewhere = []
        for key in keys:
            entry = self._put.get(key) or (None if key in self._removed else self._writing.get(key))
            if entry is not None:
                found[key] = entry.value
            elif key not in self._removed:
                elsewhere.append(key)
        if elsewhere:
            rows = await self._lookups.ask(elsewhere)
            now = time.time()
            for key, row in zip(elsewhere, rows, strict=True):
                if row is None:
                    continue
                found[key], used = row
                if now - used > self._use_resolution_seconds:
                    self._used[key] = now
                    self._wake()
        return found

    async def put(self, entry: NewEntry) -> None:
        """Take an entry; dropped, and counted, while too much waits to be written."""
        if self._backlog_bytes + len(entry.value) > _LARGEST_BACKLOG_BYTES or len(entry.value) > self._max_bytes // 2:
            self._metrics.dropped_entries.inc()
            return
        if (replaced := self._put.get(entry.key)) is not None:
            self._backlog_bytes -= len(replaced.value)
        self._put[entry.key] = entry
        self._removed.discard(entry.key)
        self._backlog_bytes += len(entry.value)
        self._wake()

    async def remove(self, key: bytes) -> None:
        """Forget an entry."""
        if (entry := self._put.pop(key, None)) is not None:
            self._backlog_bytes -= len(entry.value)
        self._removed.add(key)
        self._wake()

    async def recent(self, group: bytes, *, limit: int) -> Sequence[RecentEntry]:
        """Return how the latest entries of a group were keyed."""
        waiting = [*self._writing.values(), *self._put.values()]
        now = time.time()
        fresh = [RecentEntry(each.parts, now) for each in reversed(waiting) if group in each.groups][:limit]
        known = await self._read(lambda: sqlite_file.read_recents(self._reader, group, limit))
        return [*fresh, *(known or [])][:limit]

    async def flush(self) -> None:
        """Return when nothing waits to be written."""
        await self._idle.wait()

    async def close(self) -> None:
        """Write down what was put and close the file."""
        if self._writer is not None:
            await self.flush()
            self._writer.cancel()
            await asyncio.wait([self._writer])
            self._writer = None
            await self._run(self._reads, self._reader.close)
            await self._run(self._writes, self._connection.close)
        self._reads.shutdown(wait=False)
        self._writes.shutdown(wait=False)

    def _open(self) -> None:
        self._connection = sqlite_file.open_cache_file(self._path)
        self._reader = sqlite_file.open_cache_file(self._path)
        self._total_bytes = sqlite_file.stored_bytes(self._connection)
        self._metrics.stored_bytes.set(self._total_bytes)

    def _wake(self) -> None:
        self._idle.clear()
        self._wanted.set()

    async def _keep_writing(self) -> None:
        while True:
            if not await self._is_wanted_soon():
                await self._tidy()
                continue
            await asyncio.sleep(_BATCH_DELAY_SECONDS)
            self._wanted.clear()
            self._is_untidy = True
            put, removed, used = self._put, self._removed, self._used
            self._writing, self._put, self._removed, self._used = put, {}, set(), {}
            self._backlog_bytes = 0
            try:
                await self._run(self._writes, lambda: self._write(list(put.values()), removed, used))  # noqa: B023
            except sqlite3.Error as error:
                self._metrics.store_failures.inc()
                self._metrics.dropped_entries.inc(len(put))
                self._log.warning("cache_write_failed", path=str(self._path), entries=len(put), problem=str(error))
            self._writing = {}
            if not self._wanted.is_set():
                self._idle.set()

    async def _is_wanted_soon(self) -> bool:
        """Wait for something to write; only for a moment if there is tidying to do."""
        try:
            async with asyncio.timeout(_TIDY_SECONDS if self._is_untidy else None):
                await self._wanted.wait()
        except TimeoutError:
            return False
        return True

    async def _tidy(self) -> None:
        self._is_untidy = False
        try:
            self._is_untidy = await self._run(self._writes, lambda: sqlite_file.tidy(self._connection))
        except sqlite3.Error as error:
            self._log.warning("cache_not_tidied", path=str(self._path), problem=str(error))

    def _write(self, put: Sequence[NewEntry], removed: set[bytes], used: Mapping[bytes, float]) -> None:
        rows = sqlite_file.recent_rows(self._max_bytes)
        self._total_bytes += sqlite_file.write_batch(self._connection, put, removed, used, recent_rows=rows)
        if self._total_bytes > self._max_bytes:
            count, freed = sqlite_file.evict(self._connection, total_bytes=self._total_bytes, max_bytes=self._max_bytes)
            self._total_bytes -= freed
            self._metrics.evicted_entries.inc(count)
        self._metrics.stored_bytes.set(self._total_bytes)

    async def _read_rows(self, keys: Sequence[bytes]) -> Sequence[tuple[bytes, float] | None]:
        rows = await self._read(lambda: sqlite_file.read_entries(self._reader, keys)) or {}
        return [rows.get(key) for key in keys]

    async def _read(self, work: Callable[[], ResultT]) -> ResultT | None:
        try:
            return await self._run(self._reads, work)
        except sqlite3.Error as error:
            self._metrics.store_failures.inc()
            self._log.warning("cache_read_failed", path=str(self._path), problem=str(error))
            return None

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
