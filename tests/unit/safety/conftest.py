"""A cache for the guards of a test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteCacheStore]:
    """A real one in a file of its own."""
    metrics = CacheMetrics("store", CollectorRegistry())
    opened = await SqliteCacheStore.open(tmp_path / "c", max_bytes=2**30, metrics=metrics)
    yield opened
    await opened.close()
