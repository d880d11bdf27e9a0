"""A task's rows in a file, so that memory does not grow with the data set: written once, then read at any place.

The file is an SQLite database without a name: it is unlinked as soon as it is open, so it goes with its last user,
however that ends. It lies where temporary files lie (``TMPDIR``).
"""

import hashlib
import json
import pickle
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from services.evaluation.datasets import InvalidRow, Row

Entry = tuple[str, Row | InvalidRow]
"""An item's id and its row."""

_PIECE_ROWS: Final = 256
_CACHE_KIB: Final = 4096
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = FILE;
CREATE TABLE rows (position INTEGER PRIMARY KEY, item_id TEXT NOT NULL, digest BLOB NOT NULL, content BLOB NOT NULL);
"""
_TOLD_APART: Final = """
UPDATE rows SET item_id = item_id || '#' || told.number FROM (
    SELECT position, number FROM (
        SELECT position, ROW_NUMBER() OVER (PARTITION BY item_id ORDER BY position) AS number FROM rows
    ) WHERE number > 1
) AS told WHERE rows.position = told.position
"""


class RowFile:
    """The rows of one task, by position from 0. Filled by ``write``; after that immutable, and usable by any thread.

    Args:
        entries: ids, of which several may be equal, and rows.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._lock = threading.Lock()
        with tempfile.TemporaryDirectory(prefix="evalfleet-rows-") as folder:
            self._connection = sqlite3.connect(
                Path(folder) / "rows.sqlite", isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", _encoded(entries))
        self._connection.execute("CREATE INDEX by_item_id ON rows (item_id, position)")
        self._tell_apart()
        self._connection.execute("COMMIT")
        self._count = self._number("SELECT COUNT(*) FROM rows")
        self._orders = 0

    def __len__(self) -> int:
        """Number of rows."""
        return self._count

    def entry(self, position: int) -> Entry:
        """Return the item id and the row at a position."""
        [found] = self._entries("SELECT item_id, content FROM rows WHERE position = ?", (position,))
        return found

    def item_ids(self) -> Iterator[str]:
        """Yield all item ids, in order."""
        for start in range(0, self._count, _PIECE_ROWS):
            query = "SELECT item_id FROM rows WHERE position >= ? AND position < ? ORDER BY position"
            with self._lock:
                piece = self._connection.execute(query, (start, start + _PIECE_ROWS)).fetchall()
            yield from (item_id for (item_id,) in piece)

    def digest(self, *beginning: str) -> str:
        """SHA-256 (hex) of the JSON list of ``beginning`` and the digests of all rows."""
        whole = hashlib.sha256(b"[" + b",".join(json.dumps(each).encode("ascii") for each in beginning))
        separator = b"," if beginning else b""
        for start in range(0, self._count, _PIECE_ROWS):
            query = "SELECT digest FROM rows WHERE position >= ? AND position < ? ORDER BY position"
            with self._lock:
                piece = self._connection.execute(query, (start, start + _PIECE_ROWS)).fetchall()
            for (digest,) in piece:
                whole.update(separator + b'"' + digest.hex().encode("ascii") + b'"')
                separator = b","
        whole.update(b"]")
        return whole.hexdigest()

    def ordered(self, rank: Callable[[str], bytes], limit: int | None) -> "OrderedRows":
        """Return the first ``limit`` rows in the order of their ids' ranks; equal ranks are ordered by id."""
        with self._lock:
            self._orders += 1
            table = f"order_{self._orders}"
            self._connection.create_function("rank_of", 1, rank, deterministic=True)
            self._connection.execute(f"CREATE TABLE {table} (place INTEGER PRIMARY KEY, position INTEGER NOT NULL)")
            self._connection.execute(
                f"INSERT INTO {table} (position) SELECT position FROM rows ORDER BY rank_of(item_id), item_id LIMIT ?",
                (-1 if limit is None else limit,),
            )
        return OrderedRows(self, table, self._count if limit is None else min(limit, self._count))

    def piece(self, table: str, start: int) -> list[tuple[int, Entry]]:
        """Return the next rows of an order from a place on, each with its position."""
        query = (
            f"SELECT rows.position, item_id, content FROM {table} JOIN rows USING (position) "
            "WHERE place > ? AND place <= ? ORDER BY place"
        )
        with self._lock:
            found = self._connection.execute(query, (start, start + _PIECE_ROWS)).fetchall()
        return [(position, (item_id, _decoded(content))) for position, item_id, content in found]

    def positions(self, table: str) -> tuple[int, ...]:
        """Return the positions of an order; as many numbers as there are rows in it."""
        with self._lock:
            return tuple(row[0] for row in self._connection.execute(f"SELECT position FROM {table} ORDER BY place"))

    def _tell_apart(self) -> None:
        """Give rows of equal id a number, ``#2``, ``#3`` …, in the order of the data."""
        if self._number("SELECT EXISTS (SELECT 1 FROM rows GROUP BY item_id HAVING COUNT(*) > 1)"):
            self._connection.execute(_TOLD_APART)

    def _number(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    def _entries(self, query: str, values: Sequence[object]) -> list[Entry]:
        with self._lock:
            found = self._connection.execute(query, values).fetchall()
        return [(item_id, _decoded(content)) for item_id, content in found]


class OrderedRows:
    """Some rows of a file in an order of their own, by place from 0; reading them one after the other is cheapest."""

    def __init__(self, rows: RowFile, table: str, count: int) -> None:
        self._rows = rows
        self._table = table
        self._count = count
        self._start = 0
        self._piece: list[tuple[int, Entry]] = []

    def __len__(self) -> int:
        """Number of rows."""
        return self._count

    def entry(self, place: int) -> Entry:
        """Return the item id and the row at a place."""
        if not 0 <= place < self._count:
            raise IndexError(place)
        if not self._start <= place < self._start + len(self._piece):
            # Begins a piece of its own: whoever reads one row mostly wants those behind it next.
            self._start, self._piece = place, self._rows.piece(self._table, place)
        return self._piece[place - self._start][1]

    def positions(self) -> tuple[int, ...]:
        """Return the positions of the rows in their file; holds as many numbers as there are rows."""
        return self._rows.positions(self._table)

    def item_ids(self) -> Iterator[str]:
        """Yield the rows' item ids, in order."""
        for start in range(0, self._count, _PIECE_ROWS):
            yield from (item_id for _, (item_id, _) in self._rows.piece(self._table, start))


def _encoded(entries: Iterable[Entry]) -> Iterator[tuple[int, str, bytes, bytes]]:
    for position, (item_id, row) in enumerate(entries):
        # Pickled, because what a row's expressions give need not survive JSON; nobody else can write this file.
        if isinstance(row, Row):
            content: tuple[object, ...] = (row.file_name, row.number, row.values)
        else:
            content = (row.file_name, row.number, row.problem, row.missing_column)
        yield position, item_id, _row_digest(row), pickle.dumps(content, pickle.HIGHEST_PROTOCOL)


def _decoded(content: bytes) -> Row | InvalidRow:
    values = pickle.loads(content)
    return Row(*values) if len(values) == 3 else InvalidRow(*values)


def _row_digest(row: Row | InvalidRow) -> bytes:
    values = row.values if isinstance(row, Row) else row.problem
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).digest()
