"""Both real stores."""

from tests.fakes.cache_stores import metrics, redis_server, registry, store

__all__ = ["metrics", "redis_server", "registry", "store"]
