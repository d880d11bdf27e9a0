"""How the list of runs is read and written: one statement at a time, on the clock that all replicas share."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Delete, Float, FromClause, Insert, Update, cast, extract, func, literal, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs.record import RunState
from services.runtime.database import unbroken
from services.runtime.database_engine import DATABASE_ERRORS, is_shared

ResultT = TypeVar("ResultT")

_OPEN_STATES = tuple(state.value for state in RunState if not state.is_final)


class Statements:
    """A database of which each statement is a transaction, so that a replica which is stopped holds no lock.

    All methods raise RunsUnavailableError while the database is away.

    Attributes:
        engine: of the database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT") if is_shared(engine) else engine

    @property
    def is_shared(self) -> bool:
        """Whether other replicas work on the same runs."""
        return is_shared(self._engine)

    async def is_ready(self) -> bool:
        """Return True: the database answers.

        Raises:
            RunsUnavailableError: it does not, and why.
        """
        await self.transact(lambda connection: connection.execute(select(1)))
        return True

    def now(self) -> ColumnElement[float]:
        """Seconds since the epoch on the clock that all replicas share."""
        if is_shared(self._engine):
            return cast(extract("epoch", func.statement_timestamp()), Float)
        return literal(time.time(), Float)

    async def write(self, statement: Insert | Update | Delete, *rows: dict[str, object]) -> CursorResult[Any]:
        """Execute a statement, once for each of the rows if there are any."""

        async def write(connection: AsyncConnection) -> CursorResult[Any]:
            return await connection.execute(statement, list(rows) or None)

        return await self.transact(write)

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        """Do some work with a connection.

        Raises:
            IntegrityError: a row is there already.
        """

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


def is_open(runs: FromClause) -> ColumnElement[bool]:
    """Whether a run has to go on."""
    return runs.c.state.in_(_OPEN_STATES)
