"""The durable list of rankings, and who works on which. Results are not here: the aggregation service keeps those."""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    FromClause,
    Index,
    MetaData,
    Select,
    String,
    Table,
    Text,
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
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.rankings.documents import document_of, ranking_of
from services.evaluation.rankings.record import Ranking
from services.evaluation.runs.record import RunState
from services.runtime.database import unbroken
from services.runtime.database_engine import DATABASE_ERRORS, is_shared
from services.runtime.errors import AlreadyExistsError

METADATA = MetaData()

RANKINGS = Table(
    "rankings",
    METADATA,
    Column("ranking_id", String(63), primary_key=True),
    Column("request_id", String(64), unique=True),
    # These two go before what the document says.
    Column("state", String(16), nullable=False),
    Column("end_time", Float),
    Column("create_time", Float, nullable=False),
    Column("document", Text, nullable=False),
    # Who works on it, until when (the database's clock), and for the how-manieth time.
    Column("lease_owner", String(255)),
    Column("lease_end_time", Float),
    Column("lease_epoch", BigInteger, nullable=False),
    Index("ix_rankings_state", "state"),
    Index("ix_rankings_create_time", "create_time"),
)

_C = RANKINGS.c
_COLUMNS = (_C.state, _C.end_time, _C.document)
_OPEN_STATES = tuple(state.value for state in RunState if not state.is_final)

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class RankingClaim:
    """A ranking that a replica has taken to work on; every write says the ``epoch`` of its lease."""

    ranking: Ranking
    epoch: int


class RankingStore:
    """Rankings in a database table; every method is one statement, so that a replica which is stopped holds no lock.

    All methods raise RunsUnavailableError while the database is away.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT") if is_shared(engine) else engine

    @property
    def is_shared(self) -> bool:
        """Whether other replicas work on the same rankings."""
        return is_shared(self._engine)

    async def add(self, ranking: Ranking) -> None:
        """Store a new ranking.

        Raises:
            AlreadyExistsError: its id or request id is taken.
        """
        values = {
            "ranking_id": ranking.ranking_id,
            "request_id": ranking.request_id,
            "create_time": ranking.create_time,
            "lease_epoch": 0,
            **_changing(ranking),
        }

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(insert(RANKINGS).values(**values))

        try:
            await self._transact(write)
        except IntegrityError as error:
            raise AlreadyExistsError(
                f"ranking {ranking.ranking_id!r} exists already; choose another ranking_id or leave it out",
                reason="RANKING_EXISTS",
                metadata={"ranking": ranking.name},
            ) from error

    async def claim(self, owner: str, *, lease_seconds: float) -> RankingClaim | None:
        """Take the oldest ranking that has to go on and that nobody works on, those that were begun first; or None."""
        now, waiting = self._now(), RANKINGS.alias("waiting")
        first = (
            select(waiting.c.ranking_id)
            .where(_is_free(waiting, now))
            .order_by((waiting.c.lease_epoch > 0).desc(), waiting.c.create_time, waiting.c.ranking_id)
            .limit(1)
            .with_for_update(of=waiting, skip_locked=True)
            .scalar_subquery()
        )
        statement = (
            update(RANKINGS)
            .where(_C.ranking_id == first, _is_free(RANKINGS, now))
            .values(lease_owner=owner, lease_end_time=now + lease_seconds, lease_epoch=_C.lease_epoch + 1)
            .returning(*_COLUMNS, _C.lease_epoch)
        )

        async def take(connection: AsyncConnection) -> RankingClaim | None:
            row = (await connection.execute(statement)).first()
            return None if row is None else RankingClaim(_from_row(row), row.lease_epoch)

        return await self._transact(take)

    async def save(self, ranking: Ranking, epoch: int, *, lease_seconds: float | None = None) -> None:
        """Overwrite a ranking and prolong its lease by so many seconds from now; None: the lease is given back.

        Raises:
            LeaseLostError: the ranking has ended, or another replica has taken it.
        """
        end = None if lease_seconds is None else self._now() + lease_seconds
        statement = (
            update(RANKINGS)
            .where(_C.ranking_id == ranking.ranking_id, _C.lease_epoch == epoch, _is_open(RANKINGS))
            .values(**_changing(ranking), lease_end_time=end)
            .returning(_C.lease_epoch)
        )
        if await self._scalar(statement) is None:
            raise LeaseLostError(
                f"{ranking.name} has ended or is worked on by another replica",
                metadata={"ranking": ranking.name, "epoch": str(epoch)},
            )

    async def cancel(self, ranking_id: str, left: Ranking | None = None) -> int | None:
        """End a ranking, whoever works on it, and return the epoch that shuts that one out; None if it had ended.

        Args:
            ranking_id: which.
            left: where it stands, if that is known better than it is stored.
        """
        known = {} if left is None else {"document": document_of(left)}
        statement = (
            update(RANKINGS)
            .where(_C.ranking_id == ranking_id, _is_open(RANKINGS))
            .values(
                **known,
                state=RunState.CANCELLED.value,
                end_time=time.time(),
                lease_epoch=_C.lease_epoch + 1,
                lease_end_time=None,
            )
            .returning(_C.lease_epoch)
        )
        epoch: int | None = await self._scalar(statement)
        return epoch

    async def give_back(self, owner: str | None = None) -> None:
        """Let others take what ``owner`` works on, at once; None: what anybody works on."""
        held = _is_open(RANKINGS), _C.lease_end_time.is_not(None)
        statement = update(RANKINGS).where(*held).values(lease_end_time=None)
        statement = statement if owner is None else statement.where(_C.lease_owner == owner)

        async def write(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._transact(write)

    async def get(self, ranking_id: str) -> Ranking | None:
        """Read one ranking, or None."""
        return await self._first(_C.ranking_id == ranking_id)

    async def find_request(self, request_id: str) -> Ranking | None:
        """Read the ranking that a request id created, or None."""
        return await self._first(_C.request_id == request_id)

    async def unfinished(self) -> Sequence[Ranking]:
        """All rankings that have to go on, oldest first."""
        return await self._read(select(*_COLUMNS).where(_is_open(RANKINGS)).order_by(_C.create_time, _C.ranking_id))

    async def page(self, *, size: int, after: tuple[float, str] | None = None) -> Sequence[Ranking]:
        """Up to ``size`` rankings, newest first, that come after the (create_time, ranking_id) of the page before."""
        query = select(*_COLUMNS).order_by(_C.create_time.desc(), _C.ranking_id).limit(size)
        if after is not None:
            created, last = after
            query = query.where(or_(_C.create_time < created, and_(_C.create_time == created, _C.ranking_id > last)))
        return await self._read(query)

    def _now(self) -> ColumnElement[float]:
        """Seconds since the epoch on the clock that all replicas share."""
        if self.is_shared:
            return cast(extract("epoch", func.statement_timestamp()), Float)
        return literal(time.time(), Float)

    async def _first(self, condition: ColumnElement[bool]) -> Ranking | None:
        found = await self._read(select(*_COLUMNS).where(condition).limit(1))
        return found[0] if found else None

    async def _read(self, query: Select[Any]) -> list[Ranking]:
        async def read(connection: AsyncConnection) -> list[Ranking]:
            return [_from_row(row) for row in await connection.execute(query)]

        return await self._transact(read)

    async def _scalar(self, statement: Any) -> Any:
        async def write(connection: AsyncConnection) -> Any:
            return (await connection.execute(statement)).scalar()

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
            raise RunsUnavailableError(f"the list of rankings cannot be used now: {cause}") from error


def _is_open(rankings: FromClause) -> ColumnElement[bool]:
    return rankings.c.state.in_(_OPEN_STATES)


def _is_free(rankings: FromClause, now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a ranking has to go on and nobody works on it."""
    return and_(_is_open(rankings), or_(rankings.c.lease_end_time.is_(None), rankings.c.lease_end_time < now))


def _changing(ranking: Ranking) -> dict[str, object]:
    return {"state": ranking.state.value, "end_time": ranking.end_time, "document": document_of(ranking)}


def _from_row(row: Row[Any]) -> Ranking:
    return dataclasses.replace(ranking_of(row.document), state=RunState(row.state), end_time=row.end_time)
