"""Writes results: batches of many callers share a transaction, and each caller learns how many of its own were new."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy import bindparam, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.schema import Table

from services.aggregation.errors import InvalidResultError, LeaseLostError, LedgerUnavailableError, RunDeletedError
from services.aggregation.records import AppendCounts, Result, RunLease
from services.aggregation.rows import ROW_COLUMNS, RowValues, values_of
from services.aggregation.schema import RESULTS, RUN_LEASES, RUNS, TEXT_IDS, current_hour
from services.aggregation.text_writing import Standing, enter, write_texts
from services.aggregation.texts import LongTexts, pack
from services.runtime.database import unbroken
from services.runtime.database_engine import DATABASE_ERRORS, sqlstate
from services.runtime.errors import FleetError

# Bounds how long a transaction keeps other processes and its own callers waiting.
_LARGEST_TRANSACTION_ROWS = 10_000
_MOST_KNOWN_RUNS = 1000
_MOST_KNOWN_PROMPTS = 20_000
_TEXT_COUNT = len(TEXT_IDS)
# Classes of PostgreSQL's errors: wrong data, broken constraints, values that are too large.
_REFUSALS = frozenset({"22", "23", "54"})
_PROMPT_ID = ROW_COLUMNS.index(TEXT_IDS["prompt"].name)

_PreparedRow = tuple[str, RowValues]
_Insert = postgresql.Insert | sqlite.Insert


@dataclass(frozen=True, slots=True)
class _Batch:
    """One caller's rows, each with the name of its run, their texts and lease, and where the caller waits."""

    rows: Sequence[_PreparedRow]
    texts: LongTexts
    lease: RunLease | None
    counts: asyncio.Future[AppendCounts]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run's row: its id, the hour that is noted there, and whether its results were deleted."""

    run_id: int
    append_hour: int
    is_deleted: bool


@dataclass(slots=True)
class _Memory:
    """What is remembered of the tables between transactions; true while the ledger stands so (see ``text_writing``)."""

    standing: Standing | None = None
    runs: dict[str, _Run] = field(default_factory=dict)
    prompts: dict[bytes, int] = field(default_factory=dict)

    def add(self, runs: Mapping[str, _Run], prompts: Mapping[bytes, int]) -> None:
        """Remember what a transaction found and committed."""
        if len(self.runs) > _MOST_KNOWN_RUNS:
            self.runs.clear()
        if len(self.prompts) > _MOST_KNOWN_PROMPTS:
            self.prompts.clear()
        self.runs.update(runs)
        self.prompts.update(prompts)


@dataclass(frozen=True, slots=True)
class _Written:
    """What a transaction did: what became of each batch, and what it found that may be remembered."""

    outcomes: Sequence[AppendCounts | FleetError]
    runs: Mapping[str, _Run]
    prompts: Mapping[bytes, int]


class LedgerWriter:
    """Appends results through one connection at a time; use ``open_writer``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._memory = _Memory()
        self._is_closed = False
        # Made once: every transaction notes a lease, and to make a statement takes as long as to execute it.
        self._note_lease = self._lease_note()

    async def append(self, results: Sequence[Result], lease: RunLease | None = None) -> AppendCounts:
        """Store the results whose keys are new; on return they are committed, all or none.

        Raises:
            InvalidResultError: a text cannot be written, or the database refuses a value for good.
            LeaseLostError: a later lease of the run was seen.
            RunDeletedError: the results of the run were deleted.
            LedgerUnavailableError: the database refused; nothing of these was stored.
        """
        rows, texts = await asyncio.to_thread(_prepared, results, self._memory.prompts)
        if self._is_closed:
            raise _closing()
        batch = _Batch(rows, texts, lease, asyncio.get_running_loop().create_future())
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

    async def _commit(self, batches: Sequence[_Batch], *, is_again: bool = False) -> None:
        try:
            async with self._engine.begin() as connection:
                written = await self._write(connection, batches)
        except BaseException as error:
            # It may be what was wrong.
            self._memory = _Memory()
            if _is_refusal(error) and not is_again:
                # Whoever is refused must not take the others along.
                for batch in batches:
                    await self._commit([batch], is_again=True)
                return
            failure = _as_failure(error)
            for batch in batches:
                if not batch.counts.done():
                    batch.counts.set_exception(failure)
            if not isinstance(error, Exception):
                raise
            return
        # Only now, because a transaction that is rolled back takes its new runs and texts with it.
        self._memory.add(written.runs, written.prompts)
        for batch, outcome in zip(batches, written.outcomes, strict=True):
            if batch.counts.done():
                continue
            if isinstance(outcome, AppendCounts):
                batch.counts.set_result(outcome)
            else:
                batch.counts.set_exception(outcome)

    async def _write(self, connection: AsyncConnection, batches: Sequence[_Batch]) -> _Written:
        standing = await enter(connection)
        if standing != self._memory.standing:
            self._memory = _Memory(standing)
        leases = await self._newest_leases(connection, [each.lease for each in batches if each.lease])
        await self._note_takeovers(connection, {each.lease.run for each in batches if each.lease and not each.rows})
        runs = await self._runs(connection, {run for batch in batches for run, _ in batch.rows})
        refusals = [_lost(batch.lease, leases) or _deleted(batch.rows, runs) for batch in batches]
        accepted = [batch for batch, refusal in zip(batches, refusals, strict=True) if refusal is None]
        text_ids = await self._text_ids(connection, accepted)
        outcomes = [
            refusal
            or replace(await self._insert(connection, batch.rows, runs, text_ids), incarnation=standing.incarnation)
            for batch, refusal in zip(batches, refusals, strict=True)
        ]
        prompts = {row[_PROMPT_ID] for batch in accepted for _, row in batch.rows} & text_ids.keys()
        return _Written(
            outcomes,
            {name: run for name, run in runs.items() if not run.is_deleted},
            {digest: text_ids[digest] for digest in prompts if isinstance(digest, bytes)},
        )

    async def _newest_leases(self, connection: AsyncConnection, seen: Sequence[RunLease]) -> dict[str, int]:
        """Note the leases and return the newest epoch of each of their runs, which stays so until the commit.

        The rows are locked, in the order of their names: a later lease waits for this transaction, and what an earlier
        one sends afterwards is refused.
        """
        newest: dict[str, int] = {}
        for lease in seen:
            newest[lease.run] = max(lease.epoch, newest.get(lease.run, 0))
        for run in sorted(newest):
            noted = {"run": run, "epoch": newest[run]}
            newest[run] = (await connection.execute(self._note_lease, noted)).scalar_one()
        return newest

    def _lease_note(self) -> ReturningInsert[int]:
        """What notes the lease of a run, unless a newer one is known, and returns the newest."""
        noted = self._insert_into(RUN_LEASES)
        known, told = RUN_LEASES.c.epoch, noted.excluded.epoch
        newest = case((known > told, known), else_=told)
        upsert = noted.on_conflict_do_update(index_elements=[RUN_LEASES.c.run], set_={"epoch": newest})
        return upsert.returning(RUN_LEASES.c.epoch)

    async def _note_takeovers(self, connection: AsyncConnection, names: set[str]) -> None:
        """A run that a worker takes over, before its next result, is one in progress."""
        if names:
            old = update(RUNS).where(RUNS.c.name.in_(sorted(names)), RUNS.c.append_hour < current_hour())
            await connection.execute(old.values(append_hour=current_hour()))

    async def _runs(self, connection: AsyncConnection, names: set[str]) -> dict[str, _Run]:
        """Return the runs' rows, making those that are missing, and note that something came for them."""
        hour, runs = current_hour(), {}
        known = {name: self._memory.runs[name] for name in names if name in self._memory.runs}
        if missing := sorted(names - known.keys()):
            new = self._insert_into(RUNS).on_conflict_do_nothing()
            await connection.execute(new, [{"name": name} for name in missing])
            for row in await connection.execute(select(RUNS).where(RUNS.c.name.in_(missing))):
                known[row.name] = _Run(row.run_id, row.append_hour, row.delete_microseconds is not None)
        for name, run in sorted(known.items()):
            if run.append_hour < hour:
                await connection.execute(update(RUNS).where(RUNS.c.run_id == run.run_id).values(append_hour=hour))
            runs[name] = replace(run, append_hour=hour)
        return runs

    async def _text_ids(self, connection: AsyncConnection, batches: Sequence[_Batch]) -> Mapping[bytes, int]:
        """Return the ids of the batches' long texts, storing those that are not there."""
        known = self._memory.prompts
        contents: dict[bytes, bytes] = {}
        packed: dict[bytes, bytes] = {}
        for batch in batches:
            contents.update(batch.texts.contents)
            packed.update(batch.texts.packed)
        ids = {digest: known[digest] for digest in contents if digest in known}
        return ids | await write_texts(connection, LongTexts(contents, packed), contents.keys() - ids.keys())

    async def _insert(
        self,
        connection: AsyncConnection,
        rows: Sequence[_PreparedRow],
        runs: Mapping[str, _Run],
        text_ids: Mapping[bytes, int],
    ) -> AppendCounts:
        if not rows:
            return AppendCounts()
        values = [
            (
                runs[run].run_id,
                *row[:-_TEXT_COUNT],
                *[text_ids[each] if isinstance(each, bytes) else None for each in row[-_TEXT_COUNT:]],
            )
            for run, row in rows
        ]
        if self._engine.dialect.name == "postgresql":
            columns = dict(zip(_COLUMNS, map(list, zip(*values, strict=True)), strict=True))
            inserted = (await connection.execute(_INSERT_COLUMNS, columns)).rowcount
        else:
            # As the driver takes it: SQLAlchemy would spend more time on each row than SQLite does.
            inserted = (await connection.exec_driver_sql(_INSERT_ROWS, values)).rowcount
        return AppendCounts(inserted, len(rows) - inserted)

    def _insert_into(self, table: Table) -> _Insert:
        return postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)


_COLUMNS = (RESULTS.c.run_id.name, *ROW_COLUMNS)
_INSERT_ROWS = (
    f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
)
_INSERT_COLUMNS = (
    # One array a column: PostgreSQL's driver counts no rows of a statement that is repeated for each of them.
    postgresql.insert(RESULTS)
    .from_select(
        _COLUMNS,
        select(*(func.unnest(bindparam(name, type_=postgresql.ARRAY(RESULTS.c[name].type))) for name in _COLUMNS)),
    )
    .on_conflict_do_nothing()
)


def _prepared(
    results: Sequence[Result], known_prompts: Mapping[bytes, int]
) -> tuple[Sequence[_PreparedRow], LongTexts]:
    """Return the results' rows and long texts; what is not known to be there already is packed here, in a thread."""
    contents: dict[bytes, bytes] = {}
    rows = [(result.run, values_of(result, contents)) for result in results]
    packed = {digest: pack(content) for digest, content in contents.items() if digest not in known_prompts}
    return rows, LongTexts(contents, packed)


def _deleted(rows: Sequence[_PreparedRow], runs: Mapping[str, _Run]) -> RunDeletedError | None:
    return next((RunDeletedError(run) for run, _ in rows if runs[run].is_deleted), None)


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


def _is_refusal(error: BaseException) -> bool:
    """Whether the database refuses what it was told, which it would do again, however often it is asked."""
    return isinstance(error, IntegrityError) or sqlstate(error)[:2] in _REFUSALS


def _as_failure(error: BaseException) -> BaseException:
    if isinstance(error, DATABASE_ERRORS):
        cause = getattr(error, "orig", None) or error
        failure: FleetError
        if _is_refusal(error):
            failure = InvalidResultError(f"nothing of these results was stored: {cause}")
        else:
            failure = LedgerUnavailableError(f"the ledger took nothing: {cause}; send the same results again")
        failure.__cause__ = error
        return failure
    if isinstance(error, Exception):
        return error
    return _closing()


def _closing() -> LedgerUnavailableError:
    return LedgerUnavailableError("the ledger is closing; send the same results again")
