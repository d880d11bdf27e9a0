import asyncio
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.entry import decode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import NewEntry
from services.runtime.errors import StartupError
from tests.patience import LONGEST_WAIT_SECONDS

# Puts entries as fast as it can until it is killed; each value says which key it belongs to.
WRITER = """
import asyncio, hashlib, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from services.runtime.cache.entry import encode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import NewEntry

async def main():
    metrics = CacheMetrics("test", CollectorRegistry())
    store = await SqliteCacheStore.open(Path(sys.argv[1]), max_bytes=2**30, metrics=metrics)
    number = 0
    while True:
        for _ in range(200):
            key = hashlib.sha256(str(number).encode()).digest()
            await store.put(NewEntry(key, encode_entry(key, (f"{number} " * 200).encode()), (b"g",), b"parts"))
            number += 1
        await asyncio.sleep(0.001)
        if number == 2000:
            # However slow the disk is, something is there when it is killed.
            await store.flush()
        if number % 2000 == 0:
            print(number, flush=True)

asyncio.run(main())
"""


def kill_a_writer(path: Path, *, after_lines: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(after_lines):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL


def key(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


async def open_at(path: Path, metrics: CacheMetrics, **options: float) -> SqliteCacheStore:
    max_bytes = int(options.pop("max_bytes", 2**30))
    return await SqliteCacheStore.open(path, max_bytes=max_bytes, metrics=metrics, **options)


async def test_entries_outlive_the_process(tmp_path: Path, metrics: CacheMetrics) -> None:
    store = await open_at(tmp_path / "c", metrics)
    await store.put(NewEntry(key("a"), b"value"))
    await store.close()
    store = await open_at(tmp_path / "c", metrics)
    assert await store.get_many([key("a")]) == {key("a"): b"value"}
    await store.close()
    assert (tmp_path / "c").stat().st_mode & 0o077 == 0


async def test_the_least_recently_used_make_room(
    tmp_path: Path, metrics: CacheMetrics, registry: CollectorRegistry
) -> None:
    store = await open_at(tmp_path / "c", metrics, max_bytes=100_000, use_resolution_seconds=0.0)
    for number in range(90):
        await store.put(NewEntry(key(str(number)), bytes(900)))
        await store.flush()
    await store.get_many([key("0")])
    await store.flush()
    for number in range(90, 140):
        await store.put(NewEntry(key(str(number)), bytes(900)))
        await store.flush()
    kept = await store.get_many([key(str(number)) for number in range(140)])
    assert key("0") in kept, "it was used after the others"
    assert key("1") not in kept
    assert key("139") in kept
    assert 60 < len(kept) < 100
    assert registry.get_sample_value("evalfleet_test_cache_evicted_entries_total") == 140 - len(kept)
    assert (registry.get_sample_value("evalfleet_test_cache_stored_bytes") or 0) <= 100_000
    await store.close()


async def test_the_file_stays_near_its_bound(tmp_path: Path, metrics: CacheMetrics) -> None:
    store = await open_at(tmp_path / "c", metrics, max_bytes=1_000_000)
    for number in range(8000):
        await store.put(NewEntry(key(str(number)), os.urandom(900), (b"g",), bytes(128)))
        if number % 200 == 0:
            await store.flush()
    assert journal_bytes(tmp_path / "c") < 1.5 * 2**20
    await store.close()
    # A batch is written before room is made for it.
    assert (tmp_path / "c").stat().st_size < 1_300_000


def journal_bytes(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def test_the_journal_is_emptied_when_nothing_is_written(
    tmp_path: Path, metrics: CacheMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.cache.sqlite_store._TIDY_SECONDS", 0.05)
    store = await open_at(tmp_path / "c", metrics)
    for round_ in range(2):
        await store.put(NewEntry(key(str(round_)), bytes(900)))
        await store.flush()
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while journal_bytes(tmp_path / "c"):  # noqa: ASYNC110 - a file sends no events
                await asyncio.sleep(0.01)
    assert len(await store.get_many([key("0"), key("1")])) == 2
    await store.close()


async def test_a_smaller_bound_gives_the_disk_back(
    tmp_path: Path, metrics: CacheMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.cache.sqlite_store._TIDY_SECONDS", 0.05)
    monkeypatch.setattr("services.runtime.cache.sqlite_file._PAGES_A_TIDYING", 20)
    store = await open_at(tmp_path / "c", metrics)
    for number in range(2000):
        await store.put(NewEntry(key(str(number)), os.urandom(900), (b"g",), bytes(128)))
    await store.close()
    assert (tmp_path / "c").stat().st_size > 2_000_000
    store = await open_at(tmp_path / "c", metrics, max_bytes=200_000)
    await store.put(NewEntry(key("new"), bytes(900), (b"g",), bytes(128)))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while (tmp_path / "c").stat().st_size > 400_000:  # noqa: ASYNC110 - a file sends no events
            await asyncio.sleep(0.01)
    assert key("new") in await store.get_many([key("new")])
    await store.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
async def test_a_damaged_file_is_moved_aside(tmp_path: Path, metrics: CacheMetrics, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    store = await open_at(path, metrics)
    await store.put(NewEntry(key("a"), b"value"))
    await store.flush()
    assert await store.get_many([key("a")]) == {key("a"): b"value"}
    await store.close()
    assert path.with_name("c.damaged").read_bytes() == content


async def test_a_file_of_another_version_is_moved_aside(tmp_path: Path, metrics: CacheMetrics) -> None:
    path = tmp_path / "c"
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version=99")
    other.close()
    store = await open_at(path, metrics)
    assert await store.get_many([key("a")]) == {}
    await store.close()
    assert path.with_name("c.damaged").exists()


async def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path, metrics: CacheMetrics) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="EVALFLEET_CACHE_URL"):
        await open_at(tmp_path / "file" / "c", metrics)


async def test_a_file_that_breaks_later_makes_misses_not_errors(
    tmp_path: Path, metrics: CacheMetrics, registry: CollectorRegistry
) -> None:
    path = tmp_path / "c"
    store = await open_at(path, metrics)
    await store.put(NewEntry(key("a"), b"value", (b"g",), b"p"))
    await store.flush()
    saboteur = sqlite3.connect(path)
    saboteur.executescript("DROP TABLE entries; DROP TABLE recents;")
    saboteur.close()
    assert await store.get_many([key("a")]) == {}
    assert await store.recent(b"g", limit=3) == []
    await store.put(NewEntry(key("b"), b"value"))
    await store.flush()
    assert registry.get_sample_value("evalfleet_test_cache_store_failures_total") == 3
    assert registry.get_sample_value("evalfleet_test_cache_dropped_entries_total") == 1
    await store.close()


async def test_a_killed_writer_leaves_no_wrong_entry(tmp_path: Path, metrics: CacheMetrics) -> None:
    """SIGKILL in the middle of writing, three times on the same file: what is there afterwards is whole and right."""
    path = tmp_path / "c"
    for rounds in (2, 3, 4):
        await asyncio.to_thread(kill_a_writer, path, after_lines=rounds)
    store = await open_at(path, metrics)
    with closing(sqlite3.connect(path)) as reader:
        there = [each for (each,) in reader.execute("SELECT key FROM entries")]
    found = await store.get_many(there)
    assert len(found) == len(there) > 1000
    for each, entry in found.items():
        value = decode_entry(each, entry)
        number = value.decode().split()[0]
        assert (each, value) == (key(number), f"{number} ".encode() * 200)
    await store.put(NewEntry(key("afterwards"), b"works"))
    await store.flush()
    assert await store.get_many([key("afterwards")]) == {key("afterwards"): b"works"}
    await store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
