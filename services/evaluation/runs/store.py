"""The durable list of runs, and who works on which. Results are not here: the aggregation service keeps those."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Float,
    FromClause,
    Index,
    Insert,
    Integer,
    MetaData,
    ScalarSelect,
    Select,
    String,
    Table,
    Text,
    Update,
    and_,
    cast,
    extract,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.engine import CursorResult, RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs import stored_goal
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.record import Run, RunFailure, RunState, StopReason, TaskProgress
from services.runtime.database import DATABASE_ERRORS, is_shared, unbroken
from services.runtime.errors import AlreadyExistsError

METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", String(63), primary_key=True),
    Column("suite", String(255), nullable=False),
    Column("suite_digest", String(64), nullable=False),
    Column("model", String(255), nullable=False, index=True),
    Column("model_digest", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("item_limit", Integer),
    Column("tasks", JSON, nullable=False),
    Column("request_id", String(64), unique=True),
    Column("state", String(16), nullable=False, index=True),
    Column("failure", Text),
    Column("create_time", Float, nullable=False, index=True),
    Column("start_time", Float),
    Column("end_time", Float),
    Column("progress", JSON, nullable=False),
    Column("caller", String(64)),
    Column("priority", Integer, nullable=False),
    # Who works on it, until when (the database's clock), for the how-manieth time, and when that one began.
    Column("lease_owner", String(255)),
    Column("lease_end_time", Float),
    Column("lease_epoch", BigInteger, nullable=False),
    Column("lease_begin_time", Float),
    Index("ix_runs_caller_lease_begin_time", "caller", "lease_begin_time"),
    Column("goal", JSON),
    Column("decisions", JSON),
    Column("spent", JSON),
    Column("stop_reason", String(32)),
)

_R = RUNS.c
_LEASE_COLUMNS = (_R.lease_owner, _R.lease_end_time, _R.lease_epoch, _R.lease_begin_time)
_RUN_COLUMNS = tuple(column for column in RUNS.columns if column not in set(_LEASE_COLUMNS))
_OPEN_STATES = tuple(state.value for state in RunState if not state.is_final)

_CLOSEST_TURNS = 16
"""Of each caller so many waiting runs are compared; more than one only because others may be taking the first."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a replica has taken to work on.

    Attributes:
        run: as it was stored.
        epoch: of the lease, one higher than that of whoever had the run before; every write says it.
    """

    run: Run
    epoch: int


_CHANGING = ("state", "failure", "start_time", "end_time", "progress", "decisions", "spent", "stop_reason")


class RunStore:
    """Runs in a database table; every method is one statement, so that a replica which is stopped holds no lock.

    All methods raise RunsUnavailableError while the database is away.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT") if is_shared(engine) else engine

    @property
    def is_shared(self) -> bool:
        """Whether other replicas work on the same runs."""
        return is_shared(self._engine)

    async def add(self, run: Run) -> None:
        """Store a new run.

        Raises:
            AlreadyExistsError: its id or request id is taken.
        """
        try:
            await self._write(insert(RUNS).values(**_to_row(run), lease_epoch=0))
        except IntegrityError as error:
            raise AlreadyExistsError(
                f"run {run.run_id!r} exists already; choose another run_id or leave it out",
                reason="RUN_EXISTS",
                metadata={"run": run.name},
            ) from error

    async def claim(self, owner: str, *, lease_seconds: float) -> Claim | None:
        """Take the run whose turn it is and that nobody works on, or None.

        Runs that somebody has begun and left come first, then those of higher priority. Among equals callers take
        turns: first who has fewest runs in work, then who was served the longest ago.
        """
        now = self._now()
        statement = (
            update(RUNS)
            .where(_R.run_id == _next_in_turn(now), _is_free(RUNS, now))
            .values(
                lease_owner=owner,
                lease_end_time=now + lease_seconds,
                lease_epoch=_R.lease_epoch + 1,
                lease_begin_time=now,
            )
            .returning(*_RUN_COLUMNS, _R.lease_epoch)
        )

        async def take(connection: AsyncConnection) -> Claim | None:
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else Claim(_from_row(row), row["lease_epoch"])

        return await self._transact(take)

    async def save(self, run: Run, epoch: int, *, lease_seconds: float | None = None) -> None:
        """Overwrite what may change in a stored run: see ``_CHANGING``; and prolong its lease.

        Args:
            run: its state.
            epoch: of the lease under which it is worked on.
            lease_seconds: how long from now on the lease holds; None: the lease is given back.

        Raises:
            LeaseLostError: the run has ended, or another replica has taken it.
        """
        row = _to_row(run)
        changes = {key: row[key] for key in _CHANGING}
        end = None if lease_seconds is None else self._now() + lease_seconds
        statement = (
            update(RUNS)
            .where(_R.run_id == run.run_id, _R.lease_epoch == epoch, _is_open(RUNS))
            .values(**changes, lease_end_time=end)
        )
        if (await self._write(statement)).rowcount == 0:
            raise LeaseLostError(
                f"{run.name} has ended or is worked on by another replica",
                metadata={"run": run.name, "epoch": str(epoch)},
            )

    async def cancel(self, run_id: str, progress: Sequence[TaskProgress] | None = None) -> int | None:
        """End a run, whoever works on it, and return the epoch that shuts that one out; None if it had ended before.

        Args:
            run_id: which.
            progress: where it stands, if that is known better than it is stored.
        """
        changes: dict[str, object] = {"state": RunState.CANCELLED.value, "end_time": time.time()}
        if progress is not None:
            changes["progress"] = [asdict(each) for each in progress]
        statement = (
            update(RUNS)
            .where(_R.run_id == run_id, _is_open(RUNS))
            .values(**changes, lease_epoch=_R.lease_epoch + 1, lease_end_time=None)
            .returning(_R.lease_epoch)
        )

        async def end(connection: AsyncConnection) -> int | None:
            epoch: int | None = (await connection.execute(statement)).scalar()
            return epoch

        return await self._transact(end)

    async def give_back(self, owner: str | None = None) -> None:
        """Let others take what ``owner`` works on, at once; None: what anybody works on."""
        statement = update(RUNS).where(_is_open(RUNS), _R.lease_end_time.is_not(None)).values(lease_end_time=None)
        await self._write(statement if owner is None else statement.where(_R.lease_owner == owner))

    async def get(self, run_id: str) -> Run | None:
        """Read one run, or None."""
        return await self._first(_R.run_id == run_id)

    async def find_request(self, request_id: str) -> Run | None:
        """Read the run that a request id created, or None."""
        return await self._first(_R.request_id == request_id)

    async def unfinished(self) -> Sequence[Run]:
        """All runs that have to go on, oldest first."""
        return await self._read(select(*_RUN_COLUMNS).where(_is_open(RUNS)).order_by(_R.create_time, _R.run_id))

    async def ids(self) -> Sequence[str]:
        """The newest thousand run ids, for suggestions."""
        query = select(_R.run_id).order_by(_R.create_time.desc()).limit(1000)

        async def read(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(query)).scalars())

        return await self._transact(read)

    async def page(self, *, size: int, model: str = "", after: tuple[float, str] | None = None) -> Sequence[Run]:
        """Up to ``size`` runs, newest first, that come after the (create_time, run_id) of the page before."""
        query = select(*_RUN_COLUMNS).order_by(_R.create_time.desc(), _R.run_id).limit(size)
        if model:
            query = query.where(_R.model == model)
        if after is not None:
            created, run_id = after
            query = query.where(or_(_R.create_time < created, and_(_R.create_time == created, _R.run_id > run_id)))
        return await self._read(query)

    def _now(self) -> ColumnElement[float]:
        """Seconds since the epoch on the clock that all replicas share."""
        if is_shared(self._engine):
            return cast(extract("epoch", func.statement_timestamp()), Float)
        return literal(time.time(), Float)

    async def _first(self, condition: ColumnElement[bool]) -> Run | None:
        found = await self._read(select(*_RUN_COLUMNS).where(condition).limit(1))
        return found[0] if found else None

    async def _read(self, query: Select[Any]) -> list[Run]:
        async def read(connection: AsyncConnection) -> list[Run]:
            return [_from_row(row) for row in (await connection.execute(query)).mappings()]

        return await self._transact(read)

    async def _write(self, statement: Insert | Update) -> CursorResult[Any]:
        async def write(connection: AsyncConnection) -> CursorResult[Any]:
            return await connection.execute(statement)

        return await self._transact(write)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        async def transact() -> ResultT:
            async with self._engine.begin() as connection:
                return await work(connection)

        try:
            return await unbroken(transact())
        except IntegrityError:
            raise
        except DATABASE_ERRORS as error:
            cause = getattr(error, "orig", None) or error
            raise RunsUnavailableError(f"the list of runs cannot be used now: {cause}") from error


def _is_open(runs: FromClause) -> ColumnElement[bool]:
    return runs.c.state.in_(_OPEN_STATES)


def _is_free(runs: FromClause, now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a run has to go on and nobody works on it."""
    return and_(_is_open(runs), or_(runs.c.lease_end_time.is_(None), runs.c.lease_end_time < now))


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
        .where(_is_open(other), other.c.lease_end_time >= now)
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


def _to_row(run: Run) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "suite": run.suite,
        "suite_digest": run.suite_digest,
        "model": run.model,
        "model_digest": run.model_digest,
        "seed": run.seed,
        "concurrency": run.concurrency,
        "item_limit": run.item_limit,
        "tasks": list(run.tasks),
        "request_id": run.request_id,
        "state": run.state.value,
        "failure": None if run.failure is None else json.dumps(asdict(run.failure)),
        "create_time": run.create_time,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "progress": [asdict(each) for each in run.progress],
        "caller": run.caller,
        "priority": run.priority,
        "goal": stored_goal.goal_to_row(run.goal),
        "decisions": [stored_goal.decision_to_row(each) for each in run.decisions],
        "spent": asdict(run.spent),
        "stop_reason": None if run.stop_reason is None else run.stop_reason.value,
    }


def _from_row(row: RowMapping) -> Run:
    values = {column.name: row[column] for column in _RUN_COLUMNS}
    values["state"] = RunState(values["state"])
    values["tasks"] = tuple(values["tasks"])
    values["failure"] = None if values["failure"] is None else RunFailure(**json.loads(values["failure"]))
    values["progress"] = tuple(TaskProgress(**each) for each in values["progress"])
    # Runs of earlier versions have none of these.
    values["goal"] = stored_goal.goal_from_row(values["goal"] or {})
    values["decisions"] = tuple(stored_goal.decision_from_row(each) for each in values["decisions"] or ())
    values["spent"] = Spend(**(values["spent"] or {}))
    values["stop_reason"] = None if values["stop_reason"] is None else StopReason(values["stop_reason"])
    return Run(**values)
