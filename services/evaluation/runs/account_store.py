"""The accounts of callers in the database that replicas share."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from sqlalchemy import Column, Float, String, Table, and_, delete, extract, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs.accounts import (
    DayAccount,
    Grant,
    Refusal,
    Settlement,
    answers_to,
    day_of,
    seconds_left_of_day,
)
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.tables import METADATA
from services.runtime.database import unbroken
from services.runtime.database_engine import DATABASE_ERRORS, is_shared

_QUANTITIES: Final = tuple(each.name for each in fields(Spend))
_SILENT_SECONDS: Final = 30.0
"""What is held by a process that said nothing for so long is written off: nobody will settle it."""

DAYS = Table(
    "caller_days",
    METADATA,
    Column("caller", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    *(Column(name, Float, nullable=False) for name in _QUANTITIES),
)

HOLDINGS = Table(
    "caller_holdings",
    METADATA,
    Column("caller", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("holder", String(255), primary_key=True),
    Column("holding", String(16), nullable=False),
    Column("renew_time", Float, nullable=False),
    *(Column(name, Float, nullable=False) for name in _QUANTITIES),
)

_D, _H = DAYS.c, HOLDINGS.c
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Page:
    """One caller's account of one day, locked: what is spent, and what each process holds."""

    spent: Spend
    holdings: dict[str, tuple[str, Spend]]

    def write_off(self, holders: Iterable[str]) -> None:
        """Take what is held for spent."""
        for holder in holders:
            self.spent += self.holdings.pop(holder)[1]

    @property
    def reserved(self) -> Spend:
        """What all processes hold."""
        return sum((held for _, held in self.holdings.values()), Spend())

    def settle(self, holder: str, settled: Sequence[Settlement]) -> None:
        """Replace reservations by what their items cost; of a holding that was written off they are spent already."""
        for each in settled:
            holding, held = self.holdings.get(holder, ("", Spend()))
            if holding == each.grant.holding:
                self.holdings[holder] = (holding, held - each.grant.reserved)
                self.spent += each.grant.reserved if each.actual is None else each.actual

    def reserve(self, holder: str, day: str, cost: Spend) -> Grant:
        """Add to what a process holds."""
        holding, held = self.holdings.get(holder, (secrets.token_hex(8), Spend()))
        self.holdings[holder] = (holding, held + cost)
        return Grant(day, holding, cost)


class AccountStore:
    """``AccountBook`` in an SQLite file or in PostgreSQL.

    A booking is one transaction that locks the caller's row of the day, so that two replicas never both reserve what is
    left. A process that is stopped in the middle of one loses the lock with its connection, after 10 s.

    Where nobody knows whether a booking was committed, this process goes on under another name: the booking can be made
    again without counting anything twice, and what the old name may hold is written off like that of a silent process.

    Args:
        engine: of the list of runs.
        holder: a name that no other process has, not even this one after a restart.
    """

    def __init__(self, engine: AsyncEngine, holder: str) -> None:
        self._engine = engine
        self._holder = holder
        self._names: dict[str, str] = {}
        self._insert = postgresql.insert if is_shared(engine) else sqlite.insert

    async def book(
        self, caller: str, limit: Budget, asked: Sequence[Spend], settled: Sequence[Settlement]
    ) -> Sequence[Grant | Refusal]:
        """Settle some grants and reserve what is asked as far as it fits into today's limit, in one transaction."""
        holder, is_worked_out = self._name_for(caller), False

        async def work(connection: AsyncConnection) -> Sequence[Grant | Refusal]:
            nonlocal is_worked_out
            now = await self._now(connection)
            today = day_of(now)
            answers: list[Grant | Refusal] = []
            for day in sorted({each.grant.day for each in settled} | ({today} if asked else set())):
                page = await self._page(connection, caller, day, now)
                page.settle(holder, [each for each in settled if each.grant.day == day])
                if day == today:
                    refusals = answers_to(asked, limit, page.spent, page.reserved)
                    answers = [
                        page.reserve(holder, day, cost) if refusal is None else refusal
                        for cost, refusal in zip(asked, refusals, strict=True)
                    ]
                await self._keep(connection, caller, day, page, now)
            is_worked_out = True
            return answers

        try:
            return await self._transact(work)
        except BaseException:
            if is_worked_out:
                self._names[caller] = f"{self._holder}/{secrets.token_hex(4)}"
            raise

    def _name_for(self, caller: str) -> str:
        """Under what name this process holds what it has reserved for a caller."""
        return self._names.get(caller, self._holder)

    async def read(self, caller: str) -> DayAccount:
        """Today's account of a caller."""

        async def work(connection: AsyncConnection) -> DayAccount:
            now = await self._now(connection)
            day = day_of(now)
            days = await connection.execute(select(DAYS).where(_D.caller == caller, _D.day == day))
            row = days.mappings().first()
            holdings = await connection.execute(select(HOLDINGS).where(_H.caller == caller, _H.day == day))
            reserved = sum((_spend(each) for each in holdings.mappings()), Spend())
            return DayAccount(day, Spend() if row is None else _spend(row), reserved, seconds_left_of_day(now))

        return await self._transact(work)

    async def renew(self) -> None:
        """Say that this process still holds its reservations."""

        async def work(connection: AsyncConnection) -> None:
            now = await self._now(connection)
            renamed = [and_(_H.caller == caller, _H.holder == name) for caller, name in self._names.items()]
            others = and_(_H.holder == self._holder, _H.caller.not_in(list(self._names)))
            await connection.execute(update(HOLDINGS).where(or_(others, *renamed)).values(renew_time=now))

        await self._transact(work)

    async def write_off_earlier(self) -> None:
        """Write off what processes before this one held in a file; in PostgreSQL their silence tells."""
        if is_shared(self._engine):
            return

        async def work(connection: AsyncConnection) -> None:
            found = await connection.execute(select(_H.caller, _H.day).distinct())
            for caller, day in found.all():
                page = await self._page(connection, caller, day, now=float("inf"))
                await self._keep(connection, caller, day, page, now=0.0)

        await self._transact(work)

    async def _page(self, connection: AsyncConnection, caller: str, day: str, now: float) -> _Page:
        """Lock the account of a day and read it, without what silent processes held."""
        made = self._insert(DAYS).values(caller=caller, day=day, **asdict(Spend()))
        # An update that changes nothing, for its lock and for the row that it returns.
        locked = made.on_conflict_do_update(index_elements=["caller", "day"], set_={"caller": caller}).returning(*_D)
        row = (await connection.execute(locked)).mappings().one()
        holdings = await connection.execute(select(HOLDINGS).where(_H.caller == caller, _H.day == day))
        rows = holdings.mappings().all()
        page = _Page(_spend(row), {each["holder"]: (each["holding"], _spend(each)) for each in rows})
        silent = [each["holder"] for each in rows if each["renew_time"] < now - _SILENT_SECONDS]
        page.write_off(silent)
        if silent:
            await connection.execute(delete(HOLDINGS).where(_H.caller == caller, _H.day == day, _H.holder.in_(silent)))
        return page

    async def _keep(self, connection: AsyncConnection, caller: str, day: str, page: _Page, now: float) -> None:
        """Write what has changed: what is spent, and what this process holds."""
        is_page = and_(_D.caller == caller, _D.day == day)
        await connection.execute(update(DAYS).where(is_page).values(**asdict(page.spent)))
        holder = self._name_for(caller)
        holding, held = page.holdings.get(holder, ("", Spend()))
        if held.items < 1:
            # Whole items are counted exactly, so nothing is held; rounded rests of the others go with the row.
            mine = and_(_H.caller == caller, _H.day == day, _H.holder == holder)
            await connection.execute(delete(HOLDINGS).where(mine))
            return
        row: Mapping[str, Any] = {"holding": holding, "renew_time": now, **asdict(held)}
        kept = self._insert(HOLDINGS).values(caller=caller, day=day, holder=holder, **row)
        await connection.execute(kept.on_conflict_do_update(index_elements=["caller", "day", "holder"], set_=dict(row)))

    async def _now(self, connection: AsyncConnection) -> float:
        """Seconds since the epoch on the clock that all replicas share."""
        if not is_shared(self._engine):
            return time.time()
        told = await connection.execute(select(extract("epoch", func.clock_timestamp())))
        return float(told.scalar_one())

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[ResultT]]) -> ResultT:
        async def transact() -> ResultT:
            async with self._engine.begin() as connection:
                return await work(connection)

        try:
            return await unbroken(transact())
        except DATABASE_ERRORS as error:
            cause = getattr(error, "orig", None) or error
            raise RunsUnavailableError(f"the accounts of callers cannot be used now: {cause}") from error


def _spend(row: RowMapping) -> Spend:
    return Spend(**{name: row[name] for name in _QUANTITIES})
