"""Daily budgets of callers: what all runs and replicas of one spend together stays within what is in flight."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs import account_store
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.accounts import Grant, Refusal, answers_to, seconds_left_of_day
from services.evaluation.runs.allowances import Allowance, Allowances
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.caller_budgets import CallerBudget, CallerBudgets, CallerBudgetsSpec
from services.runtime.errors import ResourceExhaustedError
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.evaluation.runs.stored_runs import opened

NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC).timestamp()
DAY = 86_400.0


class Clock:
    """The time of day that accounts see."""

    def __init__(self) -> None:
        self.now = NOON

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(account_store, "time", made)
    return made


@pytest.fixture
async def engine(tmp_path: Path, clock: Clock) -> AsyncIterator[AsyncEngine]:
    async with opened(tmp_path / "runs.sqlite") as made:
        yield made


def allowance(engine: AsyncEngine, limit: Budget, holder: str = "me") -> Allowance:
    return Allowance("team/a", CallerBudget("*", limit), AccountStore(engine, holder))


async def granted(purse: Allowance, cost: Spend) -> Grant:
    grant = await purse.reserve(cost)
    assert grant is not None
    return grant


def test_what_fits_beside_what_is_in_flight_is_granted_and_the_rest_waits_or_is_refused() -> None:
    asked = [Spend(1, 40), Spend(1, 40), Spend(1, 95)]
    assert answers_to(asked, Budget(tokens=100), Spend(0, 10), Spend()) == [None, None, Refusal.USED_UP]
    assert answers_to(asked, Budget(tokens=100), Spend(0, 10), Spend(1, 20)) == [None, Refusal.LATER, Refusal.USED_UP]


async def test_replicas_share_one_account(engine: AsyncEngine) -> None:
    first, second = allowance(engine, Budget(items=3), "a"), allowance(engine, Budget(items=3), "b")
    grants = [await granted(each, Spend(1)) for each in (first, second, first)]
    waiting = asyncio.create_task(second.reserve(Spend(1)))
    # Somebody else's item is in flight: it may yet turn out to have been cancelled before it began.
    first.settle(grants[0], Spend())
    assert isinstance(await waiting, Grant)
    for purse, grant in ((second, grants[1]), (first, grants[2])):
        purse.settle(grant, Spend(1))
        await purse.flush()
    account = await AccountStore(engine, "c").read("team/a")
    assert account.day == "2026-01-31"
    assert (account.spent, account.reserved) == (Spend(2), Spend(1))


async def test_an_item_waits_for_those_in_flight_and_is_refused_when_they_leave_nothing(engine: AsyncEngine) -> None:
    purse = allowance(engine, Budget(tokens=100))
    grant = await granted(purse, Spend(1, 60))
    waiting = asyncio.create_task(purse.reserve(Spend(1, 60)))
    await purse.flush()
    assert not waiting.done()
    purse.settle(grant, Spend(1, 60))
    assert await waiting is None


async def test_a_cancelled_item_counts_as_what_was_reserved_and_one_that_never_began_as_nothing(
    engine: AsyncEngine,
) -> None:
    purse = allowance(engine, Budget(tokens=100))
    purse.settle(await granted(purse, Spend(1, 30)), None)
    unwanted = asyncio.create_task(purse.reserve(Spend(1, 50)))
    await asyncio.sleep(0)
    unwanted.cancel()
    await asyncio.gather(unwanted, return_exceptions=True)
    await purse.flush()
    account = await AccountStore(engine, "me").read("team/a")
    assert (account.spent, account.reserved) == (Spend(1, 30), Spend())


async def test_the_next_day_begins_anew_and_settles_yesterday_where_it_was_reserved(
    engine: AsyncEngine, clock: Clock
) -> None:
    purse = allowance(engine, Budget(items=1, tokens=100))
    clock.now += DAY / 2 - 10
    late = await granted(purse, Spend(1, 10))
    assert await purse.reserve(Spend(1, 101)) is None
    clock.now += 20
    early = await granted(purse, Spend(1, 10))
    purse.settle(late, Spend(1, 99))
    purse.settle(early, Spend(1, 5))
    await purse.flush()
    store = AccountStore(engine, "me")
    assert (await store.read("team/a")).spent == Spend(1, 5)
    clock.now -= 20
    assert (await store.read("team/a")).spent == Spend(1, 99)


async def test_what_a_silent_process_held_is_spent_once(engine: AsyncEngine, clock: Clock) -> None:
    silent, other = allowance(engine, Budget(tokens=100), "silent"), allowance(engine, Budget(tokens=100), "other")
    grant = await granted(silent, Spend(1, 40))
    clock.now += 25
    await AccountStore(engine, "silent").renew()
    clock.now += 25
    mine = await granted(other, Spend(1, 10))
    assert (await AccountStore(engine, "x").read("team/a")).spent == Spend()
    clock.now += 31
    other.settle(mine, Spend(1, 10))
    await other.flush()
    assert (await AccountStore(engine, "x").read("team/a")).spent.tokens >= 40
    # It was paused, and wakes: what was written off is not counted again, though it holds something new by now.
    again = await granted(silent, Spend(1, 20))
    silent.settle(grant, Spend(1, 44))
    await silent.flush()
    account = await AccountStore(engine, "x").read("team/a")
    assert account.reserved == Spend(1, 20)
    silent.settle(again, Spend(1, 20))
    await silent.flush()
    assert (await AccountStore(engine, "x").read("team/a")).spent.tokens == 40 + 10 + 20


async def test_what_a_process_held_that_died_is_spent_when_the_next_one_opens_the_file(engine: AsyncEngine) -> None:
    dead = allowance(engine, Budget(tokens=100), "dead")
    await granted(dead, Spend(1, 70))
    allowances = Allowances(CallerBudgets(), AccountStore(engine, "next"))
    await allowances.start()
    account = await allowances.account("team/a")
    await allowances.stop()
    assert (account.today.spent, account.today.reserved) == (Spend(1, 70), Spend())


class AwayBook:
    """A book that is away for some bookings."""

    def __init__(self, book: AccountStore, failures: int) -> None:
        self._book = book
        self.failures = failures

    async def book(self, *arguments: Any) -> Sequence[Grant | Refusal]:
        if self.failures:
            self.failures -= 1
            raise RunsUnavailableError("away")
        return await self._book.book(*arguments)


async def test_nothing_begins_while_the_book_is_away_and_nothing_is_lost(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluation.runs.allowances._AWAY_SECONDS", 0.001)
    book: Any = AwayBook(AccountStore(engine, "me"), 2)
    purse = Allowance("team/a", CallerBudget("*", Budget(items=2)), book)
    grant = await granted(purse, Spend(1))
    book.failures = 2
    purse.settle(grant, Spend(1))
    await purse.flush()
    assert (await AccountStore(engine, "me").read("team/a")).spent == Spend(1)


class DeafEngine:
    """An engine of which nobody hears that its next transactions were committed."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.dialect = engine.dialect
        self.failures = 0

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as connection:
            yield connection
        if self.failures:
            self.failures -= 1
            raise OSError("connection reset")


async def test_a_booking_that_nobody_heard_of_counts_once(
    engine: AsyncEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluation.runs.allowances._AWAY_SECONDS", 0.001)
    deaf: Any = DeafEngine(engine)
    book, reader = AccountStore(deaf, "me"), AccountStore(engine, "reader")
    purse = Allowance("team/a", CallerBudget("*", Budget(tokens=1000)), book)
    settled, open_still = await granted(purse, Spend(1, 40)), await granted(purse, Spend(1, 30))
    deaf.failures = 2
    purse.settle(settled, Spend(1, 44))
    asked = await granted(purse, Spend(1, 10))
    await purse.flush()
    account = await reader.read("team/a")
    # What may have been reserved under the names before stays reserved until these are silent.
    assert (account.spent, account.reserved) == (Spend(1, 44), Spend(4, 60))
    clock.now += 20
    await book.renew()
    clock.now += 20
    purse.settle(open_still, Spend(1, 35))
    purse.settle(asked, Spend(1, 12))
    await purse.flush()
    account = await reader.read("team/a")
    assert account.reserved == Spend()
    # 44, 12, and as they were reserved: the open one, and two that were asked for in vain.
    assert account.spent == Spend(5, 44 + 12 + 30 + 10 + 10)


async def test_reservations_are_renewed_also_after_an_unknown_error(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluation.runs.allowances._RENEWAL_SECONDS", 0.001)
    book = AccountStore(engine, "me")
    errors, went_on = [ZeroDivisionError("a bug"), RunsUnavailableError("away")], asyncio.Event()

    async def renew() -> None:
        if errors:
            raise errors.pop(0)
        went_on.set()

    monkeypatch.setattr(book, "renew", renew)
    allowances = Allowances(CallerBudgets(), book)
    await allowances.start()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await went_on.wait()
    await allowances.stop()


async def test_a_new_run_is_refused_until_midnight_once_the_day_is_used_up(engine: AsyncEngine, clock: Clock) -> None:
    budgets = CallerBudgets(CallerBudgetsSpec.model_validate({"callers": {"team/*": {"items": 2}}}))
    allowances = Allowances(budgets, AccountStore(engine, "me"))
    await allowances.check("team/a")
    purse = allowances.of("team/a")
    for _ in range(2):
        purse.settle(await granted(purse, Spend(1, 7)), Spend(1, 7))
    await purse.flush()
    with pytest.raises(ResourceExhaustedError, match="00:00 UTC") as caught:
        await allowances.check("team/a")
    assert caught.value.reason == "CALLER_BUDGET_EXHAUSTED"
    assert caught.value.retry_after_seconds == seconds_left_of_day(clock.now) == DAY / 2
    assert caught.value.quota_violations[0].subject == "callers/team/a"
    assert caught.value.metadata["used_up"] == "items"
    await allowances.check("somebody else")
    clock.now += DAY
    await allowances.check("team/a")


@pytest.mark.parametrize("seed", range(12))
async def test_runs_and_replicas_of_a_caller_exceed_its_budget_by_what_is_in_flight_at_most(
    engine: AsyncEngine, seed: int
) -> None:
    rng = Random(seed)
    limit = Budget(tokens=rng.randint(200, 3000), items=rng.choice([None, rng.randint(10, 120)]))
    replicas = [allowance(engine, limit, f"replica {index}") for index in range(4)]
    spent, bound = Spend(), 0.0
    in_flight: dict[int, float] = {}
    # What each run that asks may have met in flight: when in that time it was decided, only the database knows.
    met: dict[int, dict[int, float]] = {}

    async def granted(purse: Allowance, run: int) -> Any:
        met[run] = dict(in_flight)
        return await purse.reserve(Spend(1, 20))

    async def work_on(purse: Allowance, run: int) -> None:
        nonlocal spent, bound
        own = Random(1000 * seed + run)
        while (grant := await granted(purse, run)) is not None:
            cost = Spend(1, own.randint(1, 20) * (5 if own.random() < 0.2 else 1))
            in_flight[run] = excess = max(0.0, cost.tokens - 20)
            bound = max(bound, sum(met.pop(run).values()) + excess)
            for each in met.values():
                each[run] = max(excess, each.get(run, 0.0))
            for _ in range(own.randrange(3)):
                await asyncio.sleep(0)
            spent += cost
            purse.settle(grant, cost)
            # In flight until it is booked.
            await purse.flush()
            del in_flight[run]

    await asyncio.gather(*(work_on(replicas[run % 4], run) for run in range(8)))
    account = await AccountStore(engine, "x").read("team/a")
    assert (account.spent, account.reserved) == (spent, Spend())
    assert limit.tokens is not None
    assert spent.tokens <= limit.tokens + bound
    assert limit.items is None or spent.items <= limit.items
    # Nothing was refused that fitted.
    assert spent.tokens > limit.tokens - 20 or spent.items == limit.items
