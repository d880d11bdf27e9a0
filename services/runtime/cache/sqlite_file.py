"""The SQLite file of a cache: its tables, and the few statements that touch them. Blocking; one thread a connection."""

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from services.runtime.cache.store import NewEntry, RecentEntry
from services.runtime.sqlite_journal import BULK_PAGES, bounded_journal

_VERSION: Final = 1
_ROW_OVERHEAD_BYTES: Final = 160
_MOST_RECENT_ROWS: Final = 20_000
_LEAST_RECENT_ROWS: Final = 64
_BYTES_A_RECENT_ROW: Final = 4096
_KEPT_SHARE: Final = 0.9
_KEYS_A_STATEMENT: Final = 500
_BUSY_SECONDS: Final = 2.0
_FREE_SHARE: Final = 0.25
_PAGES_A_TIDYING: Final = 2000

_SCHEMA: Final = f"""
PRAGMA auto_vacuum=INCREMENTAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_by_use ON entries (used);
CREATE TABLE IF NOT EXISTS recents (
    id INTEGER PRIMARY KEY, grp BLOB NOT NULL, parts BLOB NOT NULL, stored REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS recents_by_group ON recents (grp, id);
PRAGMA user_version={_VERSION};
COMMIT;
"""


def open_cache_file(path: Path) -> sqlite3.Connection:
    """Open the file; one that is damaged, or that another version wrote, is moved aside: it is only a cache.

    Raises:
        sqlite3.Error, OSError: it cannot be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # locked, or no permission: a new file would not help
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(FileNotFoundError):
            path.with_name(name).replace(path.with_name(f"{name}.damaged"))
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    # Prompts and answers are the caller's own: nobody else on the machine may read them.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(_SCHEMA)
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version} of the cache file is not known")
        for pragma in (*bounded_journal(BULK_PAGES), "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def read_entries(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, float]]:
    """Return value and time of the last known use of the keys that are there."""
    found: dict[bytes, tuple[bytes, float]] = {}
    for start in range(0, len(keys), _KEYS_A_STATEMENT):
        some = keys[start : start + _KEYS_A_STATEMENT]
        marks = ",".join("?" * len(some))
        for key, value, used in connection.execute(
            f"SELECT key, value, used FROM entries WHERE key IN ({marks})", some
        ):
            found[key] = (value, used)
    return found


def read_recents(connection: sqlite3.Connection, group: bytes, limit: int) -> list[RecentEntry]:
    """Return how the latest entries of a group were keyed, newest first."""
    rows = connection.execute(
        "SELECT parts, stored FROM recents WHERE grp = ? ORDER BY id DESC LIMIT ?", (group, limit)
    )
    return [RecentEntry(parts, stored) for parts, stored in rows]


def stored_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of all entries; reads the whole index, so it is asked for once."""
    return int(connection.execute("SELECT COALESCE(SUM(size), 0) FROM entries").fetchone()[0])


def recent_rows(max_bytes: int) -> int:
    """Return how many lines a cache of this bound keeps for explanations, some 200 bytes each: a twentieth of it."""
    return min(_MOST_RECENT_ROWS, max(_LEAST_RECENT_ROWS, max_bytes // _BYTES_A_RECENT_ROW))


def write_batch(
    connection: sqlite3.Connection,
    put: Iterable[NewEntry],
    removed: Iterable[bytes],
    used: Mapping[bytes, float],
    *,
    recent_rows: int,
) -> int:
    """Write entries, forget entries and note uses in one transaction; return by how many bytes the entries grew."""
    now = time.time()
    grown = 0
    with connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        for key in removed:
            for (size,) in cursor.execute("DELETE FROM entries WHERE key = ? RETURNING size", (key,)).fetchall():
                grown -= size
        cursor.executemany("UPDATE entries SET used = ? WHERE key = ?", [(when, key) for key, when in used.items()])
        for each in put:
            before = cursor.execute("SELECT size FROM entries WHERE key = ?", (each.key,)).fetchone()
            size = len(each.value) + len(each.parts) + _ROW_OVERHEAD_BYTES
            cursor.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", (each.key, each.value, size, now))
            grown += size - (before[0] if before else 0)
            if before is None:
                cursor.executemany(
                    "INSERT INTO recents (grp, parts, stored) VALUES (?, ?, ?)",
                    [(group, each.parts, now) for group in each.groups],
                )
        cursor.execute("DELETE FROM recents WHERE id <= (SELECT MAX(id) FROM recents) - ?", (recent_rows,))
    return grown


def evict(connection: sqlite3.Connection, *, total_bytes: int, max_bytes: int) -> tuple[int, int]:
    """Delete the least recently used entries until nine tenths of the bound are left.

    Returns:
        How many entries were deleted, and their bytes.
    """
    target = total_bytes - int(max_bytes * _KEPT_SHARE)
    freed, victims = 0, []
    for key, size in connection.execute("SELECT key, size FROM entries ORDER BY used, rowid"):
        if freed >= target:
            break
        victims.append((key,))
        freed += size
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM entries WHERE key = ?", victims)
    return len(victims), freed


def tidy(connection: sqlite3.Connection) -> bool:
    """Empty the journal, and give pages back that a smaller bound leaves unused; return whether more is to be given.

    A full cache has a tenth of its pages free and fills them again, so that a few free pages are no reason to move
    others about.
    """
    free, pages = (int(connection.execute(f"PRAGMA {each}").fetchone()[0]) for each in ("freelist_count", "page_count"))
    is_larger = free > _FREE_SHARE * pages
    if is_larger:
        # A script, because execute() takes one step of a statement, and each step gives one page back.
        connection.executescript(f"PRAGMA incremental_vacuum({_PAGES_A_TIDYING})")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return is_larger
