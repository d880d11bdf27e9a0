"""Writes results: batches of many callers share a transaction, and each caller learns how many of its own were new."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import bindparam, case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.schema import Table

from services.aggregation.errors import LeaseLostError, LedgerUnavailableError
from services.aggregation.records import AppendCounts, Result, RunLease
from services.aggregation.schema import RESULTS, RUN_LEASES, RUNS, RowValues, values_of
from services.runtime.database import DATABASE_ERRORS, unbroken

# Bounds how long a transaction keeps other processes and its own callers waiting.
_LARGEST_TRANSACTION_ROWS = 10_000
_MOST_KNOWN_RUNS = 1000

_PreparedRow = tuple[str, RowValues]
_Insert = postgresql.Insert | sqlite.Insert


@dataclass(frozen=True, slots=True)
class _Batch:
    """One caller's rows, each with the name of its run, the lease that they belong to, and where the caller waits."""

    rows: Sequence[_PreparedRow]
    lease: RunLease | None
    counts: asyncio.Future[AppendCounts]


class LedgerWriter:
    """Appends results through one connection at a time; use ``open_writer``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._run_ids: dict[str, int] = {}
        self._is_closed = False

    async def append(self, results: Sequence[Result], lease: RunLease | None = None) -> AppendCounts:
        """Store the results whose keys are new; on return they are committed, all or none.

        Raises:
            LeaseLostError: a later lease of the run was seen.
            LedgerUnavailableError: the database refused; nothing of these was stored.
        """
        rows = await asyncio.to_thread(lambda: [(result.run, values_of(result)) for result in results])
        if self._is_closed:
            raise _closing()
        batch = _Batch(rows, lease, asyncio.get_running_loop().create_future())
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
                leases = await self._newest_leases(connection, [each.lease for each in batches if each.lease])
                run_ids = await self._known_runs(connection, {run for batch in batches for run, _ in batch.rows})
                outcomes = [
                    _lost(batch.lease, leases) or await self._insert(connection, run_ids, batch.rows)
                    for batch in batches
                ]
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
        for batch, outcome in zip(batches, outcomes, strict=True):
            if batch.counts.done():
                continue
            if isinstance(outcome, LeaseLostError):
                batch.counts.set_exception(outcome)
            else:
                batch.counts.set_result(outcome)

    async def _newest_leases(self, connection: AsyncConnection, seen: Sequence[RunLease]) -> dict[str, int]:
        """Note the leases and return the newest epoch of each of their runs, which stays so until the commit.

        The rows are locked, in the order of their names: a later lease waits for this transaction, and what an earlier
        one sends afterwards is refused.
        """
        newest: dict[str, int] = {}
        for lease in seen:
            newest[lease.run] = max(lease.epoch, newest.get(lease.run, 0))
        for run in sorted(newest):
            statement = self._insert_into(RUN_LEASES).values(run=run, epoch=newest[run])
            known, told = RUN_LEASES.c.epoch, statement.excluded.epoch
            statement = statement.on_conflict_do_update(
                index_elements=[RUN_LEASES.c.run], set_={"epoch": case((known > told, known), else_=told)}
            )
            newest[run] = (await connection.execute(statement.returning(RUN_LEASES.c.epoch))).scalar_one()
        return newest

    async def _known_runs(self, connection: AsyncConnection, names: set[str]) -> dict[str, int]:
        known = {name: self._run_ids[name] for name in names if name in self._run_ids}
        if missing := sorted(names - known.keys()):
            new = self._insert_into(RUNS).on_conflict_do_nothing()
            await connection.execute(new, [{"name": name} for name in missing])
            for name in missing:
                known[name] = (await connection.execute(select(RUNS.c.run_id).where(RUNS.c.name == name))).scalar_one()
        return known

    async def _insert(
        self, connection: AsyncConnection, run_ids: dict[str, int], rows: Sequence[_PreparedRow]
    ) -> AppendCounts:
        if not rows:
            return AppendCounts()
        values = [{**row, "run_id": run_ids[run]} for run, row in rows]
        if self._engine.dialect.name == "postgresql":
            columns = {column.name: [each[column.name] for each in values] for column in RESULTS.columns}
            inserted = (await connection.execute(_INSERT_COLUMNS, columns)).rowcount
        else:
            inserted = (await connection.execute(self._insert_into(RESULTS).on_conflict_do_nothing(), values)).rowcount
        return AppendCounts(inserted, len(rows) - inserted)

    def _insert_into(self, table: Table) -> _Insert:
        return postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)


_INSERT_COLUMNS = (
    # One array a column: PostgreSQL's driver counts no rows of a statement that is repeated for each of them.
    postgresql.insert(RESULTS)
    .from_select(
        [column.name for column in RESULTS.columns],
        select(
            *(func.unnest(bindparam(column.name, type_=postgresql.ARRAY(column.type))) for column in RESULTS.columns)
        ),
    )
    .on_conflict_do_nothing()
)


def _lost(lease: RunLease | None, newest: Mapping[str, int]) -> LeaseLostError | None:
    if lease is None or newest[lease.run] == lease.epoch:
        return None
    return LeaseLostError(lease.run, lease.epoch, newest[lease.run])


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
    if isinstance(error, DATABASE_ERRORS):
        cause = getattr(error, "orig", None) or error
        failure = LedgerUnavailableError(f"the ledger took nothing: {cause}; send the same results again")
        failure.__cause__ = error
        return failure
    if isinstance(error, Exception):
        return error
    return _closing()


def _closing() -> LedgerUnavailableError:
    return LedgerUnavailableError("the ledger is closing; send the same results again")
