import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from services.runtime.cache import redis_store
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.redis_store import RedisCacheStore
from services.runtime.cache.store import NewEntry
from services.runtime.errors import StartupError
from tests.fakes.freezable_proxy import freezable_proxy
from tests.fakes.redis_server import RedisServer, running_redis
from tests.patience import LONGEST_WAIT_SECONDS

KEY = hashlib.sha256(b"a").digest()


def store_at(url: str, metrics: CacheMetrics, **options: float) -> RedisCacheStore:
    return RedisCacheStore(
        url,
        namespace="t",
        lifetime_seconds=options.get("lifetime", 60.0),
        timeout_seconds=options.get("timeout", LONGEST_WAIT_SECONDS),
        metrics=metrics,
    )


async def test_two_replicas_share_what_they_have(redis_server: RedisServer, metrics: CacheMetrics) -> None:
    one, other = store_at(redis_server.url, metrics), store_at(redis_server.url, metrics)
    await one.put(NewEntry(KEY, b"value"))
    await one.flush()
    assert await other.get_many([KEY]) == {KEY: b"value"}
    await one.close()
    await other.close()


async def test_every_key_expires_and_a_use_prolongs_it(redis_server: RedisServer, metrics: CacheMetrics) -> None:
    store = store_at(redis_server.url, metrics, lifetime=1000.0)
    await store.put(NewEntry(KEY, b"value", (b"g",), b"p"))
    await store.flush()
    redis = Redis.from_url(redis_server.url)
    names = [name async for name in redis.scan_iter("t:*")]
    assert len(names) == 2
    for name in names:
        assert 0 < await redis.pttl(name) <= 1_000_000
    await redis.pexpire("t:e:" + KEY.hex(), 500_000)
    await store.get_many([KEY])
    assert await redis.pttl("t:e:" + KEY.hex()) > 500_000
    await redis.aclose()
    await store.close()


async def test_a_redis_that_is_away_costs_little_and_fails_nothing(
    metrics: CacheMetrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One attempt, and then it is left alone for longer than any test takes.
    monkeypatch.setattr(redis_store, "_PAUSE_SECONDS", 3600.0)
    store = store_at("redis://127.0.0.1:1/0", metrics)
    for _ in range(200):
        assert await store.get_many([KEY]) == {}
        await store.put(NewEntry(KEY, b"value"))
        assert await store.recent(b"g", limit=3) == []
    assert registry.get_sample_value("evalfleet_test_cache_store_failures_total") == 1
    assert registry.get_sample_value("evalfleet_test_cache_dropped_entries_total") == 200
    await store.close()


async def test_a_redis_that_was_away_is_tried_again_after_a_pause(
    metrics: CacheMetrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_PAUSE_SECONDS", 0.0)
    store = store_at("redis://127.0.0.1:1/0", metrics)
    for _ in range(3):
        assert await store.get_many([KEY]) == {}
    assert registry.get_sample_value("evalfleet_test_cache_store_failures_total") == 3
    await store.close()


async def test_a_redis_that_does_not_answer_is_given_up_in_time(metrics: CacheMetrics) -> None:
    async def listen(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = store_at(f"redis://127.0.0.1:{port}/0", metrics, timeout=0.1)
    # Nothing ever comes: that it returns is that it gave up.
    assert await store.get_many([KEY]) == {}
    await store.close()
    server.close()


async def test_a_redis_that_dies_and_comes_back_is_used_again(tmp_path: Path, metrics: CacheMetrics) -> None:
    with running_redis(tmp_path) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        store = store_at(server.url, metrics)
        await store.put(NewEntry(KEY, b"value"))
        await store.flush()
        server.kill()
        assert await store.get_many([KEY]) == {}
    with running_redis(tmp_path, port=port):
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while not await store.get_many([KEY]):
                await store.put(NewEntry(KEY, b"again"))
                await store.flush()
                await asyncio.sleep(0.05)
        await store.close()


@pytest.mark.parametrize("refusal", ["OOM", "READONLY"])
async def test_a_redis_that_takes_no_more_is_still_read(
    redis_server: RedisServer, metrics: CacheMetrics, registry: CollectorRegistry, refusal: str
) -> None:
    store = store_at(redis_server.url, metrics)
    redis: Any = Redis.from_url(redis_server.url)
    other = hashlib.sha256(b"b").digest()
    policy = (await redis.config_get("maxmemory-policy"))["maxmemory-policy"]
    await store.put(NewEntry(KEY, b"value"))
    await store.flush()
    try:
        if refusal == "OOM":
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", 1)
        else:
            await redis.replicaof("127.0.0.1", 1)
        await store.put(NewEntry(other, b"refused"))
        await store.flush()
        assert registry.get_sample_value("evalfleet_test_cache_dropped_entries_total") == 1
        assert await store.get_many([KEY, other]) == {KEY: b"value"}
    finally:
        await redis.config_set("maxmemory", 0)
        await redis.config_set("maxmemory-policy", policy)
        await redis.replicaof("NO", "ONE")
    await redis.aclose()
    await store.close()


async def test_a_redis_that_was_demoted_is_left_for_the_one_that_was_promoted(
    redis_server: RedisServer, tmp_path: Path, metrics: CacheMetrics
) -> None:
    """As behind an address that leads to the primary, and cuts no connection when that is another."""
    other = hashlib.sha256(b"b").digest()
    demoted: Any = Redis.from_url(redis_server.url)
    with running_redis(tmp_path) as promoted:
        async with freezable_proxy(redis_server.port) as address:
            store = store_at(f"redis://127.0.0.1:{address.port}/0", metrics)
            await store.put(NewEntry(KEY, b"value"))
            await store.flush()
            await demoted.replicaof("127.0.0.1", 1)
            try:
                address.lead_to(promoted.port)
                await store.put(NewEntry(other, b"refused"))
                await store.flush()
                await store.put(NewEntry(other, b"value"))
                await store.flush()
                at_promoted = store_at(promoted.url, metrics)
                assert await at_promoted.get_many([other]) == {other: b"value"}
                await at_promoted.close()
                await store.close()
            finally:
                await demoted.replicaof("NO", "ONE")
                await demoted.aclose()


async def test_a_value_of_another_type_is_a_miss(redis_server: RedisServer, metrics: CacheMetrics) -> None:
    redis: Any = Redis.from_url(redis_server.url)
    await redis.delete("t:e:" + KEY.hex())
    await redis.lpush("t:e:" + KEY.hex(), "not a string")
    store = store_at(redis_server.url, metrics)
    assert await store.get_many([KEY]) == {}
    await redis.delete("t:e:" + KEY.hex())
    await redis.aclose()
    await store.close()


@pytest.mark.parametrize("url", ["redis://:secret@host:notaport/0", "redis://:secret@h/0?bad=%zz&db=x"])
async def test_a_bad_url_is_reported_without_its_password(metrics: CacheMetrics, url: str) -> None:
    with pytest.raises(StartupError) as caught:
        store_at(url, metrics)
    assert "secret" not in caught.value.message


async def test_a_steady_stream_of_entries_holds_up_nobody_who_asks_for_earlier_ones(
    redis_server: RedisServer, metrics: CacheMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(redis_server.url, metrics)
    write = store._write
    rounds = 0

    async def write_and_put(entries: Sequence[NewEntry]) -> bool:
        """While some are written, others come."""
        nonlocal rounds
        rounds += 1
        if rounds < 1000:
            await store.put(NewEntry(hashlib.sha256(str(rounds).encode()).digest(), b"more"))
        return await write(entries)

    monkeypatch.setattr(store, "_write", write_and_put)
    await store.put(NewEntry(KEY, b"value", (b"g",), b"p"))
    assert [each.parts for each in await store.recent(b"g", limit=1)] == [b"p"]
    assert rounds < 100
    monkeypatch.setattr(store, "_write", write)
    await store.close()


async def test_who_asks_for_recent_entries_waits_no_longer_than_for_one_operation(
    redis_server: RedisServer, metrics: CacheMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(redis_server.url, metrics, timeout=1.0)
    with monkeypatch.context() as stuck:
        stuck.setattr(store, "flush", asyncio.Event().wait)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            assert await store.recent(b"nobody put this", limit=1) == []
    await store.close()


async def test_an_error_that_nobody_expected_does_not_end_the_writing(
    redis_server: RedisServer, metrics: CacheMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(entries: Sequence[NewEntry]) -> bool:
        raise RuntimeError("the driver is confused")

    store = store_at(redis_server.url, metrics)
    with monkeypatch.context() as broken:
        broken.setattr(store, "_write", write)
        await store.put(NewEntry(KEY, b"lost"))
        await store.flush()
    await store.put(NewEntry(KEY, b"value"))
    await store.close()
    other = store_at(redis_server.url, metrics)
    assert await other.get_many([KEY]) == {KEY: b"value"}
    await other.close()
