"""Both real stores, and a cached generator in front of a fake inference server."""

import pytest

from services.generation.cache.cached_generator import CachedGenerator
from services.generation.registration import Registration
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore
from tests.fakes.cache_stores import metrics, redis_server, registry, store
from tests.fakes.generation_domain import Domain, StartDomain
from tests.fakes.inference_backend import write_checkpoint
from tests.unit.generation.cache.caching import Register, wrap

__all__ = ["metrics", "redis_server", "registry", "store"]


@pytest.fixture
async def domain(start_domain: StartDomain) -> Domain:
    return await start_domain()


@pytest.fixture
def register(domain: Domain) -> Register:
    """Register a checkpoint of the given files under a model id."""

    async def register(model_id: str, *, dtype: str = "float32", weights: str = "w", **files: str) -> None:
        folder = write_checkpoint(domain.root / model_id, content=weights)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
        await domain.registrar.create(Registration(str(folder), model_id, dtype))

    return register


@pytest.fixture
async def cached(domain: Domain, register: Register, store: CacheStore, metrics: CacheMetrics) -> CachedGenerator:
    await register("m")
    return wrap(domain, store, metrics)
