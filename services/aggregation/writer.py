"""Writes results: batches of many callers share a transaction, and each caller learns how many of its own were new."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.schema import Table

from services.aggregation.errors import LedgerUnavailableError
from services.aggregation.records import AppendCounts, Result
from services.aggregation.schema import RESULTS, RUNS, RowValues, values_of
from services.runtime.database import unbroken

# Bounds how long a transaction keeps other processes and its own callers waiting.
_LARGEST_TRANSACTION_ROWS = 10_000
_MOST_KNOWN_RUNS = 1000

_PreparedRow = tuple[str, RowValues]


@dataclass(frozen=True, slots=True)
class _Batch:
    """One caller's rows, each with the name of its run, and where the caller waits."""

    rows: Sequence[_PreparedRow]
    counts: asyncio.Future[AppendCounts]


class LedgerWriter:
    """Appends results through one connection at a time; use ``open_writer``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._run_ids: dict[str, int] = {}
        self._is_closed = False

    async def append(self, results: Sequence[Result]) -> AppendCounts:
        """Store the results whose keys are new; on return they are committed, all or none.

        Raises:
            LedgerUnavailableError: the database refused; nothing of these was stored.
        """
        rows = await asyncio.to_thread(lambda: [(result.run, values_of(result)) for result in results])
        if self._is_closed:
            raise _closing()
        batch = _Batch(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(batch)
        self._wake.set()
        return await batch.counts

    async def work(self) -> None:
        """Commit what is waiting, again and again, until closed."""
        while not self._is_closed:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._commit(self._next_batches())

    def close(self) -> None:
        """Refuse what waits and what comes; a transaction that has begun is finished."""
        self._is_closed = True
        self._wake.set()
        while self._waiting:
            batch = self._waiting.popleft()
            if not batch.counts.done():
                batch.counts.set_exception(_closing())

    def _next_batches(self) -> list[_Batch]:
        batches = [self._waiting.popleft()]
        row_count = len(batches[0].rows)
        while self._waiting and row_count + len(self._waiting[0].rows) <= _LARGEST_TRANSACTION_ROWS:
            batches.append(self._waiting.popleft())
            row_count += len(batches[-1].rows)
        return batches

    async def _commit(self, batches: Sequence[_Batch]) -> None:
        try:
            async with self._engine.begin() as connection:
                run_ids = await self._known_runs(connection, {run for batch in batches for run, _ in batch.rows})
                counts = [await self._insert(connection, run_ids, batch.rows) for batch in batches]
        except BaseException as error:
            failure = _as_failure(error)
            for batch in batches:
                if not batch.counts.done():
                    batch.counts.set_exception(failure)
            if not isinstance(error, Exception):
                raise
            return
        # Only now, because a transaction that is rolled back takes its new runs with it.
        if len(self._run_ids) > _MOST_KNOWN_RUNS:
            self._run_ids.clear()
        self._run_ids.update(run_ids)
        for batch, count in zip(batches, counts, strict=True):
            if not batch.counts.done():
                batch.counts.set_result(count)

    async def _known_runs(self, connection: AsyncConnection, names: set[str]) -> dict[str, int]:
        known = {name: self._run_ids[name] for name in names if name in self._run_ids}
        if missing := sorted(names - known.keys()):
            await connection.execute(self._insert_new(RUNS), [{"name": name} for name in missing])
            for name in missing:
                known[name] = (await connection.execute(select(RUNS.c.run_id).where(RUNS.c.name == name))).scalar_one()
        return known

    async def _insert(
        self, connection: AsyncConnection, run_ids: dict[str, int], rows: Sequence[_PreparedRow]
    ) -> AppendCounts:
        if not rows:
            return AppendCounts()
        values = [{**row, "run_id": run_ids[run]} for run, row in rows]
        inserted = (await connection.execute(self._insert_new(RESULTS), values)).rowcount
        return AppendCounts(inserted, len(rows) - inserted)

    def _insert_new(self, table: Table) -> Insert:
        """An INSERT that leaves alone what is there already."""
        if self._engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()


@asynccontextmanager
async def open_writer(engine: AsyncEngine) -> AsyncIterator[LedgerWriter]:
    """Yield a writer that works until the end of the ``with`` block."""
    writer = LedgerWriter(engine)
    work = asyncio.create_task(writer.work(), name="ledger_writer")
    try:
        yield writer
    finally:
        writer.close()
        await unbroken(_ended(work))


async def _ended(work: asyncio.Task[None]) -> None:
    await asyncio.wait([work])


def _as_failure(error: BaseException) -> BaseException:
    if isinstance(error, SQLAlchemyError | OSError):
        cause = getattr(error, "orig", None) or error
        failure = LedgerUnavailableError(f"the ledger took nothing: {cause}; send the same results again")
        failure.__cause__ = error
        return failure
    if isinstance(error, Exception):
        return error
    return _closing()


def _closing() -> LedgerUnavailableError:
    return LedgerUnavailableError("the ledger is closing; send the same results again")
