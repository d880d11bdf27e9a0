"""The ledger of results: one outcome for each (run, task, item, sample), the first that came."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, FromClause, Row, Select, exists, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.aggregation.connections import borrowed, database_errors
from services.aggregation.drawings.sql import SqlDrawings
from services.aggregation.drawings.store import DrawingStore
from services.aggregation.errors import LedgerReplacedError, RunDeletedError
from services.aggregation.quality_judges import TaskJudges
from services.aggregation.records import AppendCounts, ListedKey, Observation, Result, ResultKey, RunLease
from services.aggregation.retention import Pruned, PrunePolicy, Pruner
from services.aggregation.rows import (
    KEY_COLUMNS,
    OBSERVATION_COLUMNS,
    RESULT_COLUMNS,
    judges_of,
    listed_key_of,
    observation_of,
    result_of,
    with_texts,
)
from services.aggregation.schema import RESULTS, RUNS, TEXT_FIELDS
from services.aggregation.text_moving import TextMover
from services.aggregation.writer import LedgerWriter, open_writer
from services.runtime.database import DatabaseUse, open_database, unbroken
from services.runtime.database_engine import DATABASE_ERRORS
from services.runtime.errors import not_found
from services.runtime.sqlite_journal import BULK_PAGES

MIGRATIONS = Path(__file__).parent / "migrations"
_PIECE_ROWS = 1000

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which results of a run are read.

    Attributes:
        task: of this task alone; ``None``: of all.
        after: those that come after this key, which is of ``task`` if that is given.
        failed_only: the failed ones alone, and those of which a metric failed.
    """

    task: str | None = None
    after: ResultKey | None = None
    failed_only: bool = False


class ResultLedger(Protocol):
    """Keeps results, and reads them back in the order of their keys, in pieces."""

    @property
    def drawings(self) -> DrawingStore:
        """The drawings beside the results."""
        ...

    async def append(self, results: Sequence[Result], lease: RunLease | None = None) -> AppendCounts:
        """Store the results whose keys are new; on return they are durable, all or none.

        With a lease, which all of them belong to, only as long as the ledger has seen no later one of its run.
        """
        ...

    def keys(self, run: str, wanted: ResultFilter, limit: int) -> AsyncGenerator[Sequence[ListedKey]]:
        """Yield pieces of up to ``limit`` keys; raises ``NotFoundError`` for a run without results."""
        ...

    def results(self, run: str, wanted: ResultFilter, limit: int) -> AsyncGenerator[Sequence[Result]]:
        """Yield pieces of up to ``limit`` results; raises ``NotFoundError`` for a run without results."""
        ...

    def observations(self, run: str, task: str | None) -> AsyncGenerator[Sequence[Observation]]:
        """Yield pieces of all observations; raises ``NotFoundError`` for a run without results."""
        ...

    async def judges(self, run: str) -> Sequence[TaskJudges]:
        """Return who judged the scored results of a run, each combination of judges once a task."""
        ...

    async def prune(self, policy: PrunePolicy, *, dry_run: bool = False) -> Pruned:
        """Take out what a policy says, or only tell what that would be; raises ``PruneInProgressError``."""
        ...

    async def is_ready(self) -> bool:
        """Whether the ledger can be used now."""
        ...


class SqlLedger:
    """A ``ResultLedger`` in an SQL database; use ``open_ledger``.

    Every read is one statement, so it sees one moment of the ledger however long it takes.
    """

    def __init__(self, engine: AsyncEngine, writer: LedgerWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._drawings = SqlDrawings(engine)
        self._pruner = Pruner(engine)
        self._mover = TextMover(engine)

    @property
    def drawings(self) -> DrawingStore:
        """See ``ResultLedger.drawings``."""
        return self._drawings

    async def append(self, results: Sequence[Result], lease: RunLease | None = None) -> AppendCounts:
        """Store the results whose keys are new; on return they are committed, all or none.

        Raises:
            InvalidResultError: a text cannot be written, or the database refuses a value for good.
            LeaseLostError: a later lease of the run was seen.
            RunDeletedError: the results of the run were deleted.
            LedgerUnavailableError: the database refused; nothing of these was stored.
        """
        return await self._writer.append(results, lease)

    def keys(self, run: str, wanted: ResultFilter, limit: int) -> AsyncGenerator[Sequence[ListedKey]]:
        """See ``ResultLedger.keys``."""
        return self._pieces(run, _ordered(select(*KEY_COLUMNS), wanted).limit(limit), listed_key_of)

    def results(self, run: str, wanted: ResultFilter, limit: int) -> AsyncGenerator[Sequence[Result]]:
        """See ``ResultLedger.results``."""
        columns = select(*RESULT_COLUMNS).select_from(with_texts(*TEXT_FIELDS))
        return self._pieces(run, _ordered(columns, wanted).limit(limit), partial(result_of, run))

    def observations(self, run: str, task: str | None) -> AsyncGenerator[Sequence[Observation]]:
        """See ``ResultLedger.observations``."""
        return self._pieces(run, _ordered(select(*OBSERVATION_COLUMNS), ResultFilter(task)), observation_of)

    async def run_names(self) -> Sequence[str]:
        """Return the runs that have results, the one whose first result came last first."""
        with database_errors():
            async with borrowed(self._engine) as connection:
                kept = select(RUNS.c.name).where(RUNS.c.delete_microseconds.is_(None))
                return list((await unbroken(connection.execute(kept.order_by(RUNS.c.run_id.desc())))).scalars())

    async def judges(self, run: str) -> Sequence[TaskJudges]:
        """See ``ResultLedger.judges``."""
        columns = RESULTS.c
        lacks_metrics = columns.metric_failures.is_not(None).label("lacks_metrics")
        of_run = select(columns.task, columns.judges, lacks_metrics).where(
            columns.run_id == await self._run_id(run), columns.failure_reason.is_(None)
        )
        with database_errors():
            async with borrowed(self._engine) as connection:
                rows = (await unbroken(connection.execute(of_run.distinct()))).all()
        return [TaskJudges(row.task, frozenset(judges_of(row.judges)), bool(row.lacks_metrics)) for row in rows]

    async def rows(
        self,
        run: str,
        columns: Sequence[ColumnElement[Any]],
        wanted: ResultFilter,
        limit: int,
        decode: Callable[[Row[Any]], RecordT],
        *,
        source: FromClause = RESULTS,
    ) -> list[RecordT]:
        """Read up to ``limit`` rows of columns of ``source``, results and what is joined, in the order of their keys.

        Raises:
            NotFoundError: the run has no results.
            RunDeletedError: they were deleted.
            LedgerUnavailableError: the database refused.
        """
        found: list[RecordT] = []
        statement = _ordered(select(*columns).select_from(source), wanted).limit(limit)
        async with aclosing(self._pieces(run, statement, decode)) as pieces:
            async for piece in pieces:
                found.extend(piece)
        return found

    async def prune(self, policy: PrunePolicy, *, dry_run: bool = False) -> Pruned:
        """See ``Pruner.prune``."""
        return await self._pruner.prune(policy, dry_run=dry_run)

    async def move_texts(self) -> int:
        """Move the long texts that an earlier release left in the results' rows; see ``TextMover.move``."""
        return await self._mover.move()

    async def is_ready(self) -> bool:
        """Whether the database answers."""
        try:
            async with borrowed(self._engine) as connection:
                await unbroken(connection.execute(select(1)))
        except DATABASE_ERRORS:
            return False
        return True

    async def _run_id(self, run: str) -> int:
        with database_errors():
            async with borrowed(self._engine) as connection:
                found = (await unbroken(connection.execute(select(RUNS).where(RUNS.c.name == run)))).first()
                if found is None:
                    names = (await unbroken(connection.execute(select(RUNS.c.name)))).scalars().all()
        if found is None:
            raise not_found("run", run, names)
        if found.delete_microseconds is not None:
            raise RunDeletedError(run)
        return int(found.run_id)

    async def _pieces(
        self, run: str, statement: Select[Any], decode: Callable[[Row[Any]], RecordT]
    ) -> AsyncGenerator[Sequence[RecordT]]:
        def decode_all(rows: Sequence[Row[Any]]) -> list[RecordT]:
            return [decode(row) for row in rows]

        run_id = await self._run_id(run)
        # The name again, since another server may answer by now, which gives the id to another run.
        is_its_id = exists().where(RUNS.c.run_id == run_id, RUNS.c.name == run)
        of_this_run = statement.where(RESULTS.c.run_id == run_id, is_its_id)
        with database_errors():
            async with borrowed(self._engine) as connection:
                rows = await unbroken(connection.stream(of_this_run).start())
                while piece := await unbroken(rows.fetchmany(_PIECE_ROWS)):
                    yield await asyncio.to_thread(decode_all, piece)
        # Deleted between the first look and the statement, it may have had only a part of its results left.
        if await self._run_id(run) != run_id:
            raise LedgerReplacedError


@asynccontextmanager
async def open_ledger(url: str, use: DatabaseUse | None = None) -> AsyncIterator[SqlLedger]:
    """Open the ledger at ``url``, bring its tables up to date, and close it at the end of the ``with`` block.

    Raises:
        StartupError: it cannot be opened, or a newer EvalFleet wrote it.
    """
    engine = await open_database(
        url, migrations=MIGRATIONS, schema="aggregation", durable=True, journal_pages=BULK_PAGES, use=use
    )
    try:
        async with open_writer(engine) as writer:
            yield SqlLedger(engine, writer)
    finally:
        await engine.dispose()


def _ordered(statement: Select[Any], wanted: ResultFilter) -> Select[Any]:
    columns = RESULTS.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.task is not None:
        conditions.append(columns.task == wanted.task)
    if wanted.failed_only:
        conditions.append(columns.failure_reason.is_not(None) | columns.metric_failures.is_not(None))
    if wanted.after is not None:
        # SQLite walks its index only where the compared columns follow those that are fixed.
        key = {"task": columns.task, "item": columns.item, "sample": columns.sample}
        if wanted.task is not None:
            del key["task"]
        after = tuple(getattr(wanted.after, name) for name in key)
        conditions.append(tuple_(*key.values()) > after)
    return statement.where(*conditions).order_by(columns.task, columns.item, columns.sample)
