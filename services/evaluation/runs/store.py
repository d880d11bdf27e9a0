"""The durable list of runs. Results are not here: the aggregation service keeps those."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Float,
    Insert,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    Update,
    and_,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.evaluation.runs.record import Run, RunFailure, RunState, TaskProgress
from services.runtime.database import unbroken
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
)


class RunStore:
    """Runs in a database table; every method is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, run: Run) -> None:
        """Store a new run.

        Raises:
            AlreadyExistsError: its id or request id is taken.
        """
        try:
            await unbroken(self._write(insert(RUNS).values(**_to_row(run))))
        except IntegrityError as error:
            raise AlreadyExistsError(
                f"run {run.run_id!r} exists already; choose another run_id or leave it out",
                reason="RUN_EXISTS",
                metadata={"run": run.name},
            ) from error

    async def save(self, run: Run) -> None:
        """Overwrite what may change in a stored run: state, failure, times, progress."""
        row = _to_row(run)
        changes = {key: row[key] for key in ("state", "failure", "start_time", "end_time", "progress")}
        await unbroken(self._write(update(RUNS).where(RUNS.c.run_id == run.run_id).values(**changes)))

    async def get(self, run_id: str) -> Run | None:
        """Read one run, or None."""
        return await self._first(RUNS.c.run_id == run_id)

    async def find_request(self, request_id: str) -> Run | None:
        """Read the run that a request id created, or None."""
        return await self._first(RUNS.c.request_id == request_id)

    async def unfinished(self) -> Sequence[Run]:
        """All runs that have to go on, oldest first."""
        states = [state.value for state in RunState if not state.is_final]
        query = select(RUNS).where(RUNS.c.state.in_(states)).order_by(RUNS.c.create_time, RUNS.c.run_id)
        return await unbroken(self._read(query))

    async def ids(self) -> Sequence[str]:
        """The newest thousand run ids, for suggestions."""
        query = select(RUNS.c.run_id).order_by(RUNS.c.create_time.desc()).limit(1000)

        async def read() -> list[str]:
            async with self._engine.connect() as connection:
                return list((await connection.execute(query)).scalars())

        return await unbroken(read())

    async def page(self, *, size: int, model: str = "", after: tuple[float, str] | None = None) -> Sequence[Run]:
        """Up to ``size`` runs, newest first, that come after the (create_time, run_id) of the page before."""
        query = select(RUNS).order_by(RUNS.c.create_time.desc(), RUNS.c.run_id).limit(size)
        if model:
            query = query.where(RUNS.c.model == model)
        if after is not None:
            time, run_id = after
            query = query.where(
                or_(RUNS.c.create_time < time, and_(RUNS.c.create_time == time, RUNS.c.run_id > run_id))
            )
        return await unbroken(self._read(query))

    async def _first(self, condition: ColumnElement[bool]) -> Run | None:
        found = await unbroken(self._read(select(RUNS).where(condition).limit(1)))
        return found[0] if found else None

    async def _read(self, query: Select[Any]) -> list[Run]:
        async with self._engine.connect() as connection:
            return [_from_row(row) for row in (await connection.execute(query)).mappings()]

    async def _write(self, statement: Insert | Update) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(statement)


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
    }


def _from_row(row: RowMapping) -> Run:
    values = dict(row)
    values["state"] = RunState(values["state"])
    values["tasks"] = tuple(values["tasks"])
    values["failure"] = None if values["failure"] is None else RunFailure(**json.loads(values["failure"]))
    values["progress"] = tuple(TaskProgress(**each) for each in values["progress"])
    return Run(**values)
