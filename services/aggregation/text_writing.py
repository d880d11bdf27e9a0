"""Writes long texts, each once, inside the transactions that write results, and finds the ids of those there already.

A writer remembers ids of prompts, which every checkpoint's run repeats. So that it never refers to a text that somebody
took out meanwhile, a transaction that takes something out counts an epoch up while no writer's transaction is open, and
a writer whose epoch is not the newest forgets what it remembers. That serves runs as well; foreign keys would neither
notice a row that is kept without its text, nor come free. The same is so in another incarnation of the database, where
ids may be those of other rows.
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import CursorResult, LargeBinary, bindparam, func, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.aggregation.incarnations import incarnation
from services.aggregation.schema import PRUNINGS, TEXTS
from services.aggregation.texts import LongTexts

_PRUNING_LOCK: Final = 0x6C656467
"""Key of PostgreSQL's advisory lock; any number that nobody else uses."""
# SQLite takes up to 32,766 variables a statement; fewer are planned faster.
_TEXTS_A_STATEMENT: Final = 500


class Standing(NamedTuple):
    """As long as it is the same, ids that were read stay those of the same rows."""

    incarnation: str
    epoch: int


async def enter(connection: AsyncConnection) -> Standing:
    """Begin a transaction that writes; return where the ledger stands, which stays so until it ends."""
    if connection.dialect.name != "sqlite":
        await connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _PRUNING_LOCK})
        standing = select(incarnation(connection.dialect), PRUNINGS.c.epoch)
        return Standing(*(await connection.execute(standing)).one())
    # A statement that may write comes first: SQLite then holds its lock from the first read on.
    return Standing("", (await connection.execute(_SAME_EPOCH)).scalar_one())


async def enter_alone(connection: AsyncConnection) -> None:
    """Begin a transaction that takes something out; it has waited for those that write, and begins a new epoch."""
    if connection.dialect.name != "sqlite":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PRUNING_LOCK})
    await connection.execute(update(PRUNINGS).values(epoch=PRUNINGS.c.epoch + 1))


async def write_texts(connection: AsyncConnection, texts: LongTexts, wanted: Collection[bytes]) -> dict[bytes, int]:
    """Store those texts that are not there, or not there any more, and return the ids of all of them."""
    # In one order everywhere, so that no two transactions wait for each other.
    digests = sorted(wanted)
    ids: dict[bytes, int] = {}
    for start in range(0, len(digests), _TEXTS_A_STATEMENT):
        some = digests[start : start + _TEXTS_A_STATEMENT]
        packed = [texts.pack(each) for each in some]
        if connection.dialect.name == "sqlite":
            parameters = tuple(each for pair in zip(some, packed, strict=True) for each in pair)
            found: CursorResult[Any] = await connection.exec_driver_sql(_insert_rows(len(some)), parameters)
        else:
            await connection.execute(_INSERT_COLUMNS, {"digest": some, "packed": packed})
            found = await connection.execute(select(TEXTS.c.digest, TEXTS.c.text_id).where(TEXTS.c.digest.in_(some)))
        ids.update((bytes(row.digest), row.text_id) for row in found)
    return ids


def _insert_rows(count: int) -> str:
    """As SQLite's driver takes it: one statement stores texts and tells the ids of all, those there already too."""
    return (
        f"INSERT INTO texts (digest, packed) VALUES {', '.join(['(?, ?)'] * count)} ON CONFLICT (digest) "
        "DO UPDATE SET packed = coalesce(packed, excluded.packed) RETURNING digest, text_id"
    )


_SAME_EPOCH: Final = update(PRUNINGS).values(epoch=PRUNINGS.c.epoch).returning(PRUNINGS.c.epoch)
_IS_GONE: Final = TEXTS.c.packed.is_(None)
_columns = postgresql.insert(TEXTS).from_select(
    ["digest", "packed"],
    select(
        *(func.unnest(bindparam(name, type_=postgresql.ARRAY(LargeBinary))) for name in ("digest", "packed")),
    ),
)
_INSERT_COLUMNS: Final = _columns.on_conflict_do_update(
    index_elements=[TEXTS.c.digest], set_={"packed": _columns.excluded.packed}, where=_IS_GONE
)
