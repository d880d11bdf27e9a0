"""The durable list of runs, and who works on which. Results are not here: the aggregation service keeps those."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, ScalarSelect, Select, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.record import Run, RunState, TaskProgress
from services.evaluation.runs.statements import Statements, is_open
from services.evaluation.runs.tables import RUN_COLUMNS, RUNS, run_from_row, run_to_row
from services.runtime.errors import AlreadyExistsError

_R = RUNS.c

NEXT_FENCE = func.coalesce(_R.fence, _R.lease_epoch) + 1
"""What shuts out of the ledger whoever has written to it before."""

_CLOSEST_TURNS = 16
"""Of each caller so many waiting runs are compared; more than one only because others may be taking the first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a replica has taken to work on.

    Attributes:
        run: as it was stored.
        epoch: of the lease, one higher than that of whoever had the run before; every write to the list says it.
        fence: what the ledger is told; see ``RunStore.fence``.
    """

    run: Run
    epoch: int
    fence: int


_CHANGING = (
    "state",
    "failure",
    "start_time",
    "end_time",
    "progress",
    "decisions",
    "spent",
    "stop_reason",
    "escalation",
)


class RunStore(Statements):
    """Runs in a database table; see ``Statements``."""

    async def add(self, run: Run) -> None:
        """Store a new run.

        Raises:
            AlreadyExistsError: its id or request id is taken.
        """
        try:
            await self.write(insert(RUNS).values(**run_to_row(run), lease_epoch=0))
        except IntegrityError as error:
            raise AlreadyExistsError(
                f"run {run.run_id!r} exists already; choose another run_id or leave it out",
                reason="RUN_EXISTS",
                metadata={"run": run.name},
            ) from error

    async def add_ended(self, run: Run) -> None:
        """Store a run that has ended as part of something else, over what was stored of it before.

        A run of the same id that was made at another time is another one; it stays.
        """
        try:
            await self.add(run)
        except AlreadyExistsError:
            row = run_to_row(run)
            is_same = (_R.run_id == run.run_id, _R.create_time == run.create_time, ~is_open(RUNS))
            await self.write(update(RUNS).where(*is_same).values({key: row[key] for key in _CHANGING}))

    async def claim(self, owner: str, *, lease_seconds: float) -> Claim | None:
        """Take the run whose turn it is and that nobody works on, or None.

        Runs that somebody has begun and left come first, then those of higher priority. Among equals callers take
        turns: first who has fewest runs in work, then who was served the longest ago.
        """
        now = self.now()
        statement = (
            update(RUNS)
            .where(_R.run_id == _next_in_turn(now), _is_free(RUNS, now))
            .values(
                lease_owner=owner,
                lease_end_time=now + lease_seconds,
                lease_epoch=_R.lease_epoch + 1,
                lease_begin_time=now,
                fence=NEXT_FENCE,
            )
            .returning(*RUN_COLUMNS, _R.lease_epoch, _R.fence)
        )

        async def take(connection: AsyncConnection) -> Claim | None:
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else Claim(run_from_row(row), row["lease_epoch"], row["fence"])

        return await self.transact(take)

    async def save(self, run: Run, epoch: int, *, lease_seconds: float | None = None) -> None:
        """Overwrite what may change in a stored run: see ``_CHANGING``; and prolong its lease.

        Args:
            run: its state.
            epoch: of the lease under which it is worked on.
            lease_seconds: how long from now on the lease holds; None: the lease is given back.

        Raises:
            LeaseLostError: the run has ended, or another replica has taken it.
        """
        row = run_to_row(run)
        changes = {key: row[key] for key in _CHANGING}
        end = None if lease_seconds is None else self.now() + lease_seconds
        statement = (
            update(RUNS)
            .where(_R.run_id == run.run_id, _R.lease_epoch == epoch, is_open(RUNS))
            .values(**changes, lease_end_time=end)
        )
        if (await self.write(statement)).rowcount == 0:
            raise LeaseLostError(
                f"{run.name} has ended or is worked on by another replica",
                metadata={"run": run.name, "epoch": str(epoch)},
            )

    async def cancel(self, run_id: str, progress: Sequence[TaskProgress] | None = None) -> int | None:
        """End a run, whoever works on it, and return the fence that shuts them out; None if it had ended otherwise.

        Of one that was cancelled before the fence comes again: whoever did so may have died before it was told.

        Args:
            run_id: which.
            progress: where it stands, if that is known better than it is stored.
        """
        changes: dict[str, object] = {"state": RunState.CANCELLED.value, "end_time": time.time()}
        if progress is not None:
            changes["progress"] = [asdict(each) for each in progress]
        statement = (
            update(RUNS)
            .where(_R.run_id == run_id, is_open(RUNS))
            .values(**changes, lease_epoch=_R.lease_epoch + 1, lease_end_time=None, fence=NEXT_FENCE)
            .returning(_R.fence)
        )

        was_cancelled = (_R.run_id == run_id) & (_R.state == RunState.CANCELLED.value)
        known = select(func.coalesce(_R.fence, _R.lease_epoch)).where(was_cancelled)

        async def end(connection: AsyncConnection) -> int | None:
            fence: int | None = (await connection.execute(statement)).scalar()
            return (await connection.execute(known)).scalar() if fence is None else fence

        return await self.transact(end)

    async def fence(self, run_id: str, epoch: int | None = None) -> int:
        """What the ledger is to be told by whoever works on a run.

        It has grown since it was read last if a shard of the run was taken over: whoever had that one is shut out, and
        the others read it anew.

        Args:
            run_id: which.
            epoch: of the lease under which it is worked on; None: of any.

        Raises:
            LeaseLostError: the run has ended, or another replica has taken it.
        """
        query = select(func.coalesce(_R.fence, _R.lease_epoch)).where(_R.run_id == run_id, is_open(RUNS))
        if epoch is not None:
            query = query.where(_R.lease_epoch == epoch)

        async def read(connection: AsyncConnection) -> int | None:
            fence: int | None = (await connection.execute(query)).scalar()
            return fence

        fence = await self.transact(read)
        if fence is None:
            raise LeaseLostError(f"runs/{run_id} has ended or is worked on by another replica")
        return fence

    async def give_back(self, owner: str | None = None) -> None:
        """Let others take what ``owner`` works on, at once; None: what anybody works on."""
        statement = update(RUNS).where(is_open(RUNS), _R.lease_end_time.is_not(None)).values(lease_end_time=None)
        await self.write(statement if owner is None else statement.where(_R.lease_owner == owner))

    async def get(self, run_id: str) -> Run | None:
        """Read one run, or None."""
        return await self._first(_R.run_id == run_id)

    async def find_request(self, request_id: str) -> Run | None:
        """Read the run that a request id created, or None."""
        return await self._first(_R.request_id == request_id)

    async def unfinished(self) -> Sequence[Run]:
        """All runs that have to go on, oldest first."""
        return await self._read(select(*RUN_COLUMNS).where(is_open(RUNS)).order_by(_R.create_time, _R.run_id))

    async def ids(self) -> Sequence[str]:
        """The newest thousand run ids, for suggestions."""
        query = select(_R.run_id).order_by(_R.create_time.desc()).limit(1000)

        async def read(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(query)).scalars())

        return await self.transact(read)

    async def page(self, *, size: int, model: str = "", after: tuple[float, str] | None = None) -> Sequence[Run]:
        """Up to ``size`` runs, newest first, that come after the (create_time, run_id) of the page before."""
        query = select(*RUN_COLUMNS).order_by(_R.create_time.desc(), _R.run_id).limit(size)
        if model:
            query = query.where(_R.model == model)
        if after is not None:
            created, run_id = after
            query = query.where(or_(_R.create_time < created, and_(_R.create_time == created, _R.run_id > run_id)))
        return await self._read(query)

    async def _first(self, condition: ColumnElement[bool]) -> Run | None:
        found = await self._read(select(*RUN_COLUMNS).where(condition).limit(1))
        return found[0] if found else None

    async def _read(self, query: Select[Any]) -> list[Run]:
        async def read(connection: AsyncConnection) -> list[Run]:
            return [run_from_row(row) for row in (await connection.execute(query)).mappings()]

        return await self.transact(read)


def _is_free(runs: FromClause, now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a run has to go on and nobody works on it."""
    return and_(is_open(runs), or_(runs.c.lease_end_time.is_(None), runs.c.lease_end_time < now))


def _next_in_turn(now: ColumnElement[float]) -> ScalarSelect[str]:
    """The id of the run to take next. One that another replica is taking at this moment is passed over."""
    run, other = RUNS.alias("run"), RUNS.alias("other")
    # Their caller had its turn already, and whoever watches them has waited for the end of the lease.
    was_begun = (run.c.lease_epoch > 0).desc()
    first_of_caller = (was_begun, run.c.priority.desc(), run.c.create_time, run.c.run_id)
    turn = func.row_number().over(partition_by=run.c.caller, order_by=first_of_caller)
    waiting = select(run.c.run_id, turn.label("turn")).where(_is_free(run, now)).subquery("waiting")
    in_work = (
        select(other.c.caller, func.count().label("count"))
        .where(is_open(other), other.c.lease_end_time >= now)
        .group_by(other.c.caller)
        .subquery("in_work")
    )
    last_served = (
        select(func.max(other.c.lease_begin_time)).where(other.c.caller == run.c.caller).correlate(run)
    ).scalar_subquery()
    return (
        select(run.c.run_id)
        .join(waiting, waiting.c.run_id == run.c.run_id)
        .outerjoin(in_work, in_work.c.caller == run.c.caller)
        .where(_is_free(run, now), waiting.c.turn <= _CLOSEST_TURNS)
        .order_by(
            was_begun,
            run.c.priority.desc(),
            func.coalesce(in_work.c.count, 0) + waiting.c.turn,
            last_served.asc().nulls_first(),
            run.c.create_time,
            run.c.run_id,
        )
        .limit(1)
        .with_for_update(of=run, skip_locked=True)
        .scalar_subquery()
    )
