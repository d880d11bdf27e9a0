"""Watches what is put into a cache, for tests that damage it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.runtime.cache.store import CacheStore, NewEntry


@contextmanager
def kept_keys(store: CacheStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Yield the keys of the entries that are put into a store meanwhile."""
    keys: list[bytes] = []
    put = store.put

    async def noting(entry: NewEntry) -> None:
        keys.append(entry.key)
        await put(entry)

    with monkeypatch.context() as patched:
        patched.setattr(store, "put", noting)
        yield keys
