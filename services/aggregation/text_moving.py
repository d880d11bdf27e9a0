"""Moves long texts of results from before there were texts to where new ones are kept, while the ledger is used.

Those who read find a text in either place, and no writer waits for longer than a piece takes. What was moved is
committed with the place to go on from, so that a process that is killed loses one piece of work.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Row, Select, bindparam, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.aggregation.connections import database_errors
from services.aggregation.schema import RESULTS, TEXT_FIELDS, TEXT_IDS, TEXT_MOVES
from services.aggregation.text_writing import enter, write_texts
from services.aggregation.texts import SHORTEST_KEPT_APART, LongTexts, digest_of, pack
from services.runtime.database import unbroken
from services.runtime.database_engine import is_shared

# Bounds how long writers of SQLite wait, and what a killed process has done in vain.
_ROWS_A_TRANSACTION: Final = 200
_CHARACTERS_A_TRANSACTION: Final = 4_000_000
"""Bounds what is held in memory, but for one result that is larger."""
_ASK_AGAIN_SECONDS: Final = 5.0
_MOVER_LOCK: Final = 0x6D6F7665
"""Key of PostgreSQL's advisory lock; any number that nobody else uses."""
_LONGEST_INDEX_SECONDS: Final = 24 * 3600.0

_R = RESULTS.c
_KEY: Final = tuple(TEXT_MOVES.columns)
_KEY_OF_RESULT: Final = (_R.run_id, _R.task, _R.item, _R.sample)
_TEXTS: Final = tuple(_R[field] for field in TEXT_FIELDS)

_Place = tuple[int, str, str, int]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some results in the order of their keys.

    Attributes:
        changes: new values of those that have a long text, with digests for ids.
        texts: these long texts.
        end: key of the last of the results.
    """

    changes: Sequence[dict[str, Any]]
    texts: LongTexts
    end: _Place


class TextMover:
    """Moves the texts of a ledger, one process at a time over all its replicas."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._log: Any = structlog.get_logger(__name__)

    async def move(self) -> int:
        """Move what is left; return how many results this process changed, when nobody has anything left to do.

        Raises:
            LedgerUnavailableError: the database refused; what was moved before stays so.
        """
        moved = 0
        with database_errors():
            while await is_moving(self._engine):
                async with self._turn() as has_turn:
                    if has_turn:
                        moved += await self._move_all()
                        continue
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
        return moved

    async def _move_all(self) -> int:
        self._log.info("texts_moving")
        if is_shared(self._engine):
            await self._make_indexes()
        moved = 0
        while (place := await self._place()) is not None:
            began = time.monotonic()
            rows = await self._rows_after(place)
            if not rows:
                if not is_shared(self._engine):
                    await unbroken(self._make_indexes_of_a_file())
                await unbroken(self._finish(place))
                break
            piece = await asyncio.to_thread(_prepared, rows)
            moved += await unbroken(self._write(place, piece))
            # Half of the time is the others'.
            await asyncio.sleep(time.monotonic() - began)
        self._log.info("texts_moved", results=moved)
        return moved

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Tell whether nobody else is at it; the lock ends with the connection, if the process dies."""
        if not is_shared(self._engine):
            yield True
            return
        async with self._engine.connect() as connection:
            # Without a transaction, which PostgreSQL would end when it is idle.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            has_turn = (await connection.execute(_LOCK, {"key": _MOVER_LOCK})).scalar_one()
            try:
                yield bool(has_turn)
            finally:
                if has_turn:
                    await unbroken(_unlock(connection))

    async def _make_indexes(self) -> None:
        """Make the indexes that pruning needs, without keeping writers from the results."""
        for column in TEXT_IDS.values():
            name = f"ix_results_{column.name}"
            async with self._engine.connect() as connection:
                # As the driver takes it: it goes through all results, for longer than other statements may take.
                driver: Any = (await connection.get_raw_connection()).driver_connection
                is_valid = await driver.fetchval(_IS_VALID, name)
                if is_valid is False:  # whoever made it was killed
                    await driver.execute(f"DROP INDEX CONCURRENTLY {name}", timeout=_LONGEST_INDEX_SECONDS)
                if not is_valid:
                    statement = (
                        f"CREATE INDEX CONCURRENTLY {name} ON results ({column.name}) WHERE {column.name} IS NOT NULL"
                    )
                    await driver.execute(statement, timeout=_LONGEST_INDEX_SECONDS)

    async def _make_indexes_of_a_file(self) -> None:
        """Make them where writers have to wait: after the texts have left the rows, which are read through faster."""
        for column in TEXT_IDS.values():
            async with self._engine.begin() as connection:
                await enter(connection)
                await connection.execute(
                    text(
                        f"CREATE INDEX IF NOT EXISTS ix_results_{column.name} ON results ({column.name}) "
                        f"WHERE {column.name} IS NOT NULL"
                    )
                )

    async def _place(self) -> _Place | None:
        async with self._engine.connect() as connection:
            found = (await unbroken(connection.execute(select(*_KEY)))).first()
        return None if found is None else (found.run_id, found.task, found.item, found.sample)

    async def _rows_after(self, place: _Place) -> Sequence[Row[Any]]:
        after = tuple_(*_KEY_OF_RESULT) > place
        # PostgreSQL knows a text's bytes without reading it; SQLite of all versions only its characters.
        length = func.octet_length if is_shared(self._engine) else func.length
        size = sum((func.coalesce(length(each), 0) for each in _TEXTS[1:]), func.coalesce(length(_TEXTS[0]), 0))
        sizes: Select[Any] = select(*_KEY_OF_RESULT, size.label("size")).where(after).order_by(*_KEY_OF_RESULT)
        async with self._engine.connect() as connection:
            while found := (await unbroken(connection.execute(sizes.limit(_ROWS_A_TRANSACTION)))).all():
                until = tuple_(*_KEY_OF_RESULT) <= _last_in_bounds(found)
                some = select(*_KEY_OF_RESULT, *_TEXTS, *TEXT_IDS.values()).where(after, until)
                rows = (await unbroken(connection.execute(some.order_by(*_KEY_OF_RESULT)))).all()
                if rows:  # or somebody has deleted them since
                    return rows
            return []

    async def _write(self, place: _Place, piece: _Piece) -> int:
        async with self._engine.begin() as connection:
            await enter(connection)
            end = dict(zip((each.name for each in _KEY), piece.end, strict=True))
            went_on = await connection.execute(update(TEXT_MOVES).where(tuple_(*_KEY) == place).values(end))
            if not went_on.rowcount:
                return 0  # a process that had lost its turn without noticing has done it
            if not piece.changes:
                return 0
            ids = await write_texts(connection, piece.texts, piece.texts.contents.keys())
            changes = [{name: ids.get(value, value) for name, value in each.items()} for each in piece.changes]
            await connection.execute(_CHANGE, changes)
        return len(changes)

    async def _finish(self, place: _Place) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(delete(TEXT_MOVES).where(tuple_(*_KEY) == place))


async def is_moving(engine: AsyncEngine) -> bool:
    """Return whether there are results whose texts may still have to be moved."""
    async with engine.connect() as connection:
        return (await unbroken(connection.execute(select(*_KEY)))).first() is not None


def _last_in_bounds(sizes: Sequence[Row[Any]]) -> _Place:
    """Return the key of the last result that is read with the first, which is read however large it is."""
    total = 0
    last = sizes[0]
    for row in sizes:
        total += row.size
        if total > _CHARACTERS_A_TRANSACTION:
            break
        last = row
    return (last.run_id, last.task, last.item, last.sample)


def _prepared(rows: Sequence[Row[Any]]) -> _Piece:
    contents: dict[bytes, bytes] = {}
    changes = []
    for row in rows:
        found = {field: _long_text(getattr(row, field)) for field in TEXT_FIELDS}
        if not any(found.values()):
            continue
        change: dict[str, Any] = {f"of_{column.name}": getattr(row, column.name) for column in _KEY_OF_RESULT}
        for field, content in found.items():
            value, text_id = getattr(row, field), getattr(row, TEXT_IDS[field].name)
            if content is not None:
                value, text_id = (None if field == "extracted_answer" else ""), digest_of(content)
                contents[text_id] = content
            change |= {f"new_{field}": value, f"new_{TEXT_IDS[field].name}": text_id}
        changes.append(change)
    last = rows[-1]
    packed = {digest: pack(content) for digest, content in contents.items()}
    return _Piece(changes, LongTexts(contents, packed), (last.run_id, last.task, last.item, last.sample))


def _long_text(stored: str | None) -> bytes | None:
    content = b"" if stored is None else stored.encode()
    return content if len(content) >= SHORTEST_KEPT_APART else None


async def _unlock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MOVER_LOCK})


_LOCK: Final = text("SELECT pg_try_advisory_lock(:key)")
_IS_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
_CHANGE: Final = (
    update(RESULTS)
    .where(*(column == bindparam(f"of_{column.name}") for column in _KEY_OF_RESULT))
    .values({column.name: bindparam(f"new_{column.name}") for column in (*_TEXTS, *TEXT_IDS.values())})
)
