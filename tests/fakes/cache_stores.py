"""Fixtures: both real stores behind one name, so that every test of the seam runs against each."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.redis_store import RedisCacheStore
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import CacheStore
from tests.fakes.redis_server import RedisServer, running_redis
from tests.patience import LONGEST_WAIT_SECONDS


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> CacheMetrics:
    return CacheMetrics("test", registry)


@pytest.fixture(params=["sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, metrics: CacheMetrics) -> AsyncIterator[CacheStore]:
    opened: CacheStore
    if request.param == "sqlite":
        opened = await SqliteCacheStore.open(tmp_path / "cache.sqlite3", max_bytes=2**30, metrics=metrics)
    else:
        server = request.getfixturevalue("redis_server")
        opened = RedisCacheStore(
            server.url,
            namespace=str(tmp_path),
            lifetime_seconds=600,
            timeout_seconds=LONGEST_WAIT_SECONDS,
            metrics=metrics,
        )
    yield opened
    await opened.close()
