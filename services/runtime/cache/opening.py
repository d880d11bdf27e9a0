"""Opens the store that a setting names."""

from pathlib import Path
from typing import Final

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore
from services.runtime.errors import StartupError

OFF: Final = "off"
_SQLITE: Final = "sqlite:///"
_REDIS: Final = ("redis://", "rediss://", "unix://")


async def open_store(
    url: str,
    *,
    variable: str = "EVALFLEET_CACHE_URL",
    default_path: Path,
    namespace: str,
    max_bytes: int,
    lifetime_seconds: float,
    timeout_seconds: float,
    metrics: CacheMetrics,
) -> CacheStore | None:
    """Open the store behind ``url``.

    Args:
        url: empty for SQLite at ``default_path``; ``sqlite:///relative/path`` or ``sqlite:////absolute/path``;
            ``redis://…``; ``off`` for none.
        variable: what messages call the setting.
        default_path: see above.
        namespace: what a shared store keeps this cache's entries under.
        max_bytes: bound of an SQLite store.
        lifetime_seconds: of an entry in Redis after its last use.
        timeout_seconds: of an operation of Redis.
        metrics: counts.

    Raises:
        StartupError: the URL is not understood, the file cannot be used, or a package is missing.
    """
    # Imported here: a service needs the packages of the store that it uses, not of all.
    if url == OFF:
        return None
    if url.startswith(_REDIS):
        try:
            from services.runtime.cache.redis_store import RedisCacheStore
        except ModuleNotFoundError as error:
            raise StartupError("a cache in Redis needs: pip install 'evalfleet-services[redis]'") from error
        return RedisCacheStore(
            url,
            namespace=namespace,
            lifetime_seconds=lifetime_seconds,
            timeout_seconds=timeout_seconds,
            metrics=metrics,
        )
    if url and not url.startswith(_SQLITE):
        # The URL may hold a password, so only its scheme is shown.
        scheme = url.partition(":")[0]
        raise StartupError(
            f"{variable} begins with {scheme!r}; write sqlite:///PATH, redis://HOST:PORT/DATABASE, or off"
        )
    from services.runtime.cache.sqlite_store import SqliteCacheStore

    path = Path(url.removeprefix(_SQLITE)) if url else default_path
    return await SqliteCacheStore.open(path, max_bytes=max_bytes, metrics=metrics)
