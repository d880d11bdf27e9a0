"""What every store must do; each test runs on SQLite and on a real Redis."""

import hashlib

from services.runtime.cache.store import CacheStore, NewEntry


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


async def test_what_was_put_is_there_at_once_and_after_it_was_written(store: CacheStore) -> None:
    await store.put(NewEntry(key("a"), b"\x00value\xff"))
    for _ in range(2):
        assert await store.get_many([key("a"), key("b")]) == {key("a"): b"\x00value\xff"}
        await store.flush()


async def test_a_newer_value_replaces_the_older(store: CacheStore) -> None:
    await store.put(NewEntry(key("a"), b"old"))
    await store.flush()
    await store.put(NewEntry(key("a"), b"new"))
    for _ in range(2):
        assert await store.get_many([key("a")]) == {key("a"): b"new"}
        await store.flush()


async def test_what_was_removed_is_gone(store: CacheStore) -> None:
    await store.put(NewEntry(key("a"), b"1"))
    await store.put(NewEntry(key("b"), b"2"))
    await store.remove(key("a"))
    assert await store.get_many([key("a"), key("b")]) == {key("b"): b"2"}
    await store.flush()
    await store.remove(key("b"))
    assert await store.get_many([key("a"), key("b")]) == {}
    await store.flush()
    assert await store.get_many([key("a"), key("b")]) == {}


async def test_many_keys_are_read_at_once(store: CacheStore) -> None:
    entries = {key(str(number)): str(number).encode() for number in range(1200)}
    for each, value in entries.items():
        await store.put(NewEntry(each, value))
    await store.flush()
    assert await store.get_many(list(entries)) == entries


async def test_the_latest_entries_of_a_group_come_newest_first(store: CacheStore) -> None:
    for number in range(40):
        group = b"even" if number % 2 == 0 else b"odd"
        await store.put(NewEntry(key(str(number)), b"v", (group, b"all"), str(number).encode()))
        if number % 8 == 0:
            await store.flush()
    assert [each.parts for each in await store.recent(b"even", limit=3)] == [b"38", b"36", b"34"]
    assert [each.parts for each in await store.recent(b"all", limit=2)] == [b"39", b"38"]
    await store.flush()
    assert [each.parts for each in await store.recent(b"odd", limit=2)] == [b"39", b"37"]
    assert await store.recent(b"none", limit=3) == []
    [latest] = await store.recent(b"all", limit=1)
    assert latest.stored_seconds > 1.7e9
