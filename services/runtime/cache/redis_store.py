"""A cache in Redis or Valkey: shared by the replicas of a fleet."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import NewEntry, RecentEntry
from services.runtime.errors import StartupError

ResultT = TypeVar("ResultT")

_RECENTS_A_GROUP: Final = 32
_BATCH_ENTRIES: Final = 256
_LARGEST_BACKLOG_BYTES: Final = 64 * 1024 * 1024
# A Redis that is away costs one attempt this often, not a timeout a request.
_PAUSE_SECONDS: Final = 1.0
_LEAVE_SECONDS: Final = 5.0
"""A server that takes no writes is left for whatever else the address leads to, this often at most."""


class RedisCacheStore:
    """Implements ``CacheStore``. A Redis that is down, slow or full makes lookups misses, never errors.

    Entries expire ``lifetime_seconds`` after their last use. The bound of the whole is Redis's own ``maxmemory`` with
    the policy ``allkeys-lru`` or ``volatile-lru``: every key here has an expiry.

    Args:
        url: ``redis://[:password@]host:port/database``, or ``rediss://`` for TLS.
        namespace: prefix of all keys; two caches with different namespaces do not meet.
        lifetime_seconds: how long an entry is kept after its last use.
        timeout_seconds: bound of one operation.
        metrics: counts.

    Raises:
        StartupError: the URL is none.
    """

    def __init__(
        self, url: str, *, namespace: str, lifetime_seconds: float, timeout_seconds: float, metrics: CacheMetrics
    ) -> None:
        try:
            self._redis: Any = Redis.from_url(
                url,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=30,
            )
        except (ValueError, RedisError) as error:
            # The URL may hold a password, so it is not shown.
            raise StartupError(f"EVALFLEET_CACHE_URL is no Redis URL: {error}") from error
        self._namespace = namespace.encode()
        self._lifetime_ms = max(1, round(lifetime_seconds * 1000))
        self._timeout_seconds = timeout_seconds
        self._metrics = metrics
        self._put: dict[bytes, NewEntry] = {}
        self._writing: dict[bytes, NewEntry] = {}
        self._backlog_bytes = 0
        self._wanted = asyncio.Event()
        self._put_count = 0
        self._written_count = 0
        self._round_ended = asyncio.Event()
        self._away_until = 0.0
        self._quiet_until = 0.0
        self._stay_until = 0.0
        self._writer = asyncio.create_task(self._keep_writing(), name="cache writer")
        self._log: Any = structlog.get_logger(__name__)

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values that are there, and let them live on."""
        waiting = {key: entry for key in keys if (entry := self._put.get(key) or self._writing.get(key))}
        found = {key: entry.value for key, entry in waiting.items()}
        elsewhere = [key for key in keys if key not in found]
        if not elsewhere:
            return found

        async def ask() -> list[bytes | None]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in elsewhere:
                    pipeline.getex(self._entry(key), px=self._lifetime_ms)
                try:
                    answers: list[bytes | None] = await pipeline.execute()
                except ReadOnlyError:
                    # A replica, as after a failover: it cannot let them live on, but it has them.
                    answers = await self._redis.mget([self._entry(key) for key in elsewhere])
                else:
                    return answers
            await self._leave_replica()
            return answers

        values = await self._try(ask)
        found.update((key, value) for key, value in zip(elsewhere, values or [], strict=False) if value is not None)
        return found

    async def put(self, entry: NewEntry) -> None:
        """Take an entry; dropped, and counted, while too much waits or Redis is away."""
        if self._is_away() or self._backlog_bytes + len(entry.value) > _LARGEST_BACKLOG_BYTES:
            self._metrics.dropped_entries.inc()
            return
        if (replaced := self._put.get(entry.key)) is not None:
            self._backlog_bytes -= len(replaced.value)
        self._put[entry.key] = entry
        self._backlog_bytes += len(entry.value)
        self._put_count += 1
        self._wanted.set()

    async def remove(self, key: bytes) -> None:
        """Forget an entry."""
        if (entry := self._put.pop(key, None)) is not None:
            self._backlog_bytes -= len(entry.value)
        await self._try(lambda: self._redis.delete(self._entry(key)))

    async def recent(self, group: bytes, *, limit: int) -> Sequence[RecentEntry]:
        """Return how the latest entries of a group were keyed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds):
                await self.flush()
        rows = await self._try(lambda: self._redis.lrange(self._group(group), 0, min(limit, _RECENTS_A_GROUP) - 1))
        known = []
        for row in rows or ():
            stored, _, parts = bytes(row).partition(b" ")
            if stored.isdigit():
                known.append(RecentEntry(parts, int(stored) / 1000))
        return known

    async def flush(self) -> None:
        """Return when nothing that was put before waits to be written."""
        put_count = self._put_count
        while self._written_count < put_count:
            await self._round_ended.wait()

    async def close(self) -> None:
        """Write down what was put and close the connections."""
        await self.flush()
        self._writer.cancel()
        await asyncio.wait([self._writer])
        await self._redis.aclose()

    def _entry(self, key: bytes) -> bytes:
        return self._namespace + b":e:" + key.hex().encode()

    def _group(self, group: bytes) -> bytes:
        return self._namespace + b":r:" + group.hex().encode()

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    async def _keep_writing(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            put, put_count = list(self._put.values()), self._put_count
            self._writing, self._put, self._backlog_bytes = self._put, {}, 0
            for start in range(0, len(put), _BATCH_ENTRIES):
                some = put[start : start + _BATCH_ENTRIES]
                if await self._try(lambda: self._write(some)) is None:  # noqa: B023
                    self._metrics.dropped_entries.inc(len(some))
            self._writing, self._written_count = {}, put_count
            ended, self._round_ended = self._round_ended, asyncio.Event()
            ended.set()

    async def _write(self, entries: Sequence[NewEntry]) -> bool:
        stored = str(int(time.time() * 1000)).encode()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for entry in entries:
                pipeline.set(self._entry(entry.key), entry.value, px=self._lifetime_ms)
                for group in entry.groups:
                    name = self._group(group)
                    pipeline.lpush(name, stored + b" " + entry.parts)
                    pipeline.ltrim(name, 0, _RECENTS_A_GROUP - 1)
                    pipeline.pexpire(name, self._lifetime_ms)
            try:
                await pipeline.execute()
            except ReadOnlyError as error:
                refusal = error
            else:
                return True
        await self._leave_replica()
        raise refusal

    async def _leave_replica(self) -> None:
        """Close the idle connections to a server that takes no writes: the next may lead to one that was promoted."""
        if time.monotonic() >= self._stay_until:
            self._stay_until = time.monotonic() + _LEAVE_SECONDS
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _try(self, work: Callable[[], Awaitable[ResultT]]) -> ResultT | None:
        """Do ``work`` in bounded time; ``None`` if that fails. A Redis that is away is left alone for a moment."""
        if self._is_away():
            return None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await work()
        except (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError) as error:
            self._metrics.store_failures.inc()
            self._away_until = time.monotonic() + _PAUSE_SECONDS
            self._log.warning("cache_unreachable", problem=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever the driver meets, the writer goes on and callers know nothing
            # It is there and refuses this, for instance writes while its memory is full: reads go on.
            self._metrics.store_failures.inc()
            if time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + _PAUSE_SECONDS
                self._log.warning("cache_refused", problem=f"{type(error).__name__}: {error}")
        return None
