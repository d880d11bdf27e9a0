"""Takes old runs, old texts, and texts that nothing refers to out of the ledger, a little at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, exists, false, func, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.aggregation.connections import database_errors
from services.aggregation.drawings.schema import DRAWING_BATCHES, DRAWINGS
from services.aggregation.errors import PruneInProgressError, RunDeletedError, RunInProgressError, TextsMovingError
from services.aggregation.schema import RESULTS, RUNS, TEXT_IDS, TEXTS, current_hour
from services.aggregation.text_moving import is_moving
from services.aggregation.text_writing import enter_alone
from services.runtime.database import unbroken
from services.runtime.database_engine import is_shared
from services.runtime.errors import not_found

MOST_RUNS: Final = 1000
"""Runs that are deleted at a time; the next time goes on."""

# Bounds how long writers wait for a transaction that takes something out.
_RESULTS_A_TRANSACTION: Final = 2000
_TEXTS_A_TRANSACTION: Final = 1000
_HOURS_IN_PROGRESS: Final = 2
_PRUNER_LOCK: Final = 0x70727565
"""Key of PostgreSQL's advisory lock; any number that nobody else uses."""

_R, _T = RESULTS.c, TEXTS.c


@dataclass(frozen=True, slots=True)
class PrunePolicy:
    """What is taken out, besides texts that no result refers to.

    Attributes:
        runs: whose results are deleted.
        keep_runs_days: results of runs that got none for so many days are deleted; ``None``: they are not.
        keep_text_days: the long texts of runs that got no results for so many days are removed; ``None``: they are not.
        runs_have_ended: delete ``runs`` also if they got results a short while ago.
    """

    runs: tuple[str, ...] = ()
    keep_runs_days: int | None = None
    keep_text_days: int | None = None
    runs_have_ended: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was, or would be, taken out; texts in bytes as they are stored. Adds up."""

    runs: tuple[str, ...] = ()
    result_count: int = 0
    text_count: int = 0
    text_bytes: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(
            self.runs + other.runs,
            self.result_count + other.result_count,
            self.text_count + other.text_count,
            self.text_bytes + other.text_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Range:
    """Texts from one id up to before another, and what is known of the runs whose texts stay.

    Attributes:
        doomed: rows of runs that are taken for deleted.
        oldest_hour: texts that belong only to runs last written to before it are removed; ``None``: none are.
    """

    start: int
    end: int
    doomed: Sequence[int] = ()
    oldest_hour: int | None = None

    @property
    def places(self) -> ColumnElement[bool]:
        """Whether a text is in the range."""
        return and_(_T.text_id >= self.start, _T.text_id < self.end)

    @property
    def is_unused(self) -> ColumnElement[bool]:
        """Whether no result refers to a text."""
        return self._no_result()

    @property
    def is_too_old(self) -> ColumnElement[bool]:
        """Whether a text is there, and only old results refer to it."""
        if self.oldest_hour is None:
            return false()
        recent = and_(RUNS.c.run_id == _R.run_id, RUNS.c.append_hour >= self.oldest_hour)
        return and_(_T.packed.is_not(None), self._no_result(recent))

    def _no_result(self, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        alive = [_R.run_id.not_in(self.doomed)] if self.doomed else []
        return ~or_(*(exists().where(column == _T.text_id, *alive, *conditions) for column in TEXT_IDS.values()))


@dataclass(frozen=True, slots=True)
class _DoomedRun:
    """A run to delete, if nothing came for it since ``append_hour``."""

    name: str
    run_id: int
    append_hour: int


class Pruner:
    """Prunes a ledger, one call at a time over all its replicas.

    What is taken out is gone with each transaction: a call that ends early has done a part, and another goes on.
    Writers wait for one transaction at most, and readers never do.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()

    async def prune(self, policy: PrunePolicy, *, dry_run: bool = False) -> Pruned:
        """Take out what a policy says, or only tell what that would be.

        Raises:
            PruneInProgressError: somebody else is at it.
            TextsMovingError: the texts of an older ledger are being moved.
            NotFoundError: a named run is not known.
            RunDeletedError: its results were deleted before.
            RunInProgressError: it may be in progress.
            LedgerUnavailableError: the database refused; what was taken out before is gone.
        """
        with database_errors():
            async with self._alone():
                if await is_moving(self._engine):
                    raise TextsMovingError
                doomed = await self._doomed(policy)
                if dry_run:
                    run_ids = [each.run_id for each in doomed]
                    found = Pruned(tuple(each.name for each in doomed), await self._result_count(run_ids))
                    return found + await self._prune_texts(policy, run_ids, dry_run=True)
                return await self._delete_runs(doomed) + await self._prune_texts(policy)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Be the only one of all replicas; the lock ends with the connection, if the process dies."""
        if self._lock.locked():
            raise PruneInProgressError
        async with self._lock:
            if not is_shared(self._engine):
                yield
                return
            async with self._engine.connect() as connection:
                # Without a transaction, which PostgreSQL would end when it is idle.
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                got = await connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _PRUNER_LOCK})
                if not got.scalar_one():
                    raise PruneInProgressError
                try:
                    yield
                finally:
                    await unbroken(_unlock(connection))

    async def _doomed(self, policy: PrunePolicy) -> list[_DoomedRun]:
        """Return the runs to delete, by name."""
        doomed = {name: await self._named(name, has_ended=policy.runs_have_ended) for name in policy.runs}
        if policy.keep_runs_days is not None:
            oldest = current_hour() - 24 * policy.keep_runs_days
            old = select(RUNS).where(RUNS.c.append_hour < oldest, RUNS.c.delete_microseconds.is_(None))
            for row in await self._rows(old.order_by(RUNS.c.run_id).limit(MOST_RUNS)):
                doomed[row.name] = _DoomedRun(row.name, row.run_id, row.append_hour)
        return [doomed[name] for name in sorted(doomed)]

    async def _named(self, name: str, *, has_ended: bool) -> _DoomedRun:
        rows = await self._rows(select(RUNS).where(RUNS.c.name == name))
        if not rows:
            raise not_found("run", name, [row.name for row in await self._rows(select(RUNS.c.name))])
        if rows[0].delete_microseconds is not None:
            raise RunDeletedError(name)
        # Both are whole hours, so that those in which it was written to and in which we are count as well.
        if not has_ended and rows[0].append_hour >= current_hour() - _HOURS_IN_PROGRESS:
            raise RunInProgressError(name)
        return _DoomedRun(name, rows[0].run_id, rows[0].append_hour)

    async def _result_count(self, run_ids: Sequence[int]) -> int:
        count = select(func.count()).select_from(RESULTS).where(_R.run_id.in_(run_ids))
        return int((await self._rows(count))[0][0])

    async def _delete_runs(self, doomed: Sequence[_DoomedRun]) -> Pruned:
        """Say that runs are deleted, and then delete what belongs to them and to those that an earlier call left."""
        names = await unbroken(self._mark(doomed)) if doomed else []
        left = select(RUNS.c.run_id).where(
            RUNS.c.delete_microseconds.is_not(None), exists().where(_R.run_id == RUNS.c.run_id)
        )
        count = 0
        for row in await self._rows(left.order_by(RUNS.c.run_id)):
            while deleted := await unbroken(self._delete_some(row.run_id)):
                count += deleted
        return Pruned(tuple(names), count)

    async def _mark(self, doomed: Sequence[_DoomedRun]) -> list[str]:
        """Let nobody read these runs or write to them any more, but for those that something came for meanwhile.

        Their drawings stay: they say what the runs that were drawn in their orders had seen.
        """
        now, names = time.time_ns() // 1000, []
        async with self._engine.begin() as connection:
            await enter_alone(connection)
            for each in doomed:
                is_run = (RUNS.c.run_id == each.run_id) & (RUNS.c.name == each.name)
                is_same = is_run & (RUNS.c.append_hour == each.append_hour)
                marked = await connection.execute(update(RUNS).where(is_same).values(delete_microseconds=now))
                if marked.rowcount:
                    names.append(each.name)
                    drawings = select(DRAWINGS.c.drawing_id).where(DRAWINGS.c.run_id == each.run_id)
                    await connection.execute(delete(DRAWING_BATCHES).where(DRAWING_BATCHES.c.drawing_id.in_(drawings)))
        return names

    async def _delete_some(self, run_id: int) -> int:
        key = (_R.task, _R.item, _R.sample)
        of_run = select(*key).where(_R.run_id == run_id).order_by(*key)
        last = await self._rows(of_run.offset(_RESULTS_A_TRANSACTION - 1).limit(1))
        # Asked once more, since a server that took over meanwhile may have another run with this id.
        is_marked = exists().where(RUNS.c.run_id == run_id, RUNS.c.delete_microseconds.is_not(None))
        some = delete(RESULTS).where(_R.run_id == run_id, is_marked)
        if last:
            some = some.where(tuple_(*key) <= tuple(last[0]))
        async with self._engine.begin() as connection:
            return (await connection.execute(some)).rowcount

    async def _prune_texts(self, policy: PrunePolicy, doomed: Sequence[int] = (), *, dry_run: bool = False) -> Pruned:
        oldest = None if policy.keep_text_days is None else current_hour() - 24 * policy.keep_text_days
        [(end,)] = await self._rows(select(func.coalesce(func.max(_T.text_id), 0) + 1))
        found = Pruned()
        for start in range(1, int(end), _TEXTS_A_TRANSACTION):
            piece = _Range(start, min(start + _TEXTS_A_TRANSACTION, int(end)), doomed, oldest)
            # Looked up first, since most pieces need no transaction that writers wait for.
            size = func.coalesce(func.sum(func.length(_T.packed)), 0)
            wanted = select(func.count(), func.count(_T.packed), size)
            wanted = wanted.where(piece.places, or_(piece.is_unused, piece.is_too_old))
            [(row_count, text_count, byte_count)] = await self._rows(wanted)
            if row_count and not dry_run:
                await unbroken(self._remove(piece))
            found += Pruned(text_count=int(text_count), text_bytes=int(byte_count))
        return found

    async def _remove(self, piece: _Range) -> None:
        async with self._engine.begin() as connection:
            await enter_alone(connection)
            await connection.execute(delete(TEXTS).where(piece.places, piece.is_unused))
            if piece.oldest_hour is not None:
                await connection.execute(update(TEXTS).where(piece.places, piece.is_too_old).values(packed=None))

    async def _rows(self, query: Any) -> Sequence[Any]:
        async with self._engine.connect() as connection:
            rows: Sequence[Any] = (await unbroken(connection.execute(query))).all()
            return rows


async def _unlock(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _PRUNER_LOCK})
