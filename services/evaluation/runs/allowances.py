"""Lets items of a caller with a daily budget go ahead only while they fit, across all of its runs and replicas."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.evaluation.errors import RunsUnavailableError
from services.evaluation.runs.accounts import AccountBook, DayAccount, Grant, Refusal, Settlement, left_of, used_up
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.caller_budgets import CallerBudget, CallerBudgets
from services.runtime.errors import QuotaViolation, ResourceExhaustedError

_ASK_AGAIN_SECONDS = 1.0
"""Between two looks whether items elsewhere were settled."""
_AWAY_SECONDS = 0.5
_RENEWAL_SECONDS = 5.0
_LONGEST_FLUSH_SECONDS = 5.0
_MOST_A_BOOKING = 256

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Ask:
    cost: Spend
    answer: "asyncio.Future[Grant | Refusal]"


@dataclass(frozen=True, slots=True)
class CallerAccount:
    """What a caller may spend in a day, and where its account of today stands."""

    caller: str
    budget: CallerBudget
    today: DayAccount

    @property
    def left(self) -> Budget:
        """What is neither spent nor reserved."""
        return left_of(self.budget.limit, self.today.spent + self.today.reserved)


class Allowance:
    """The daily budget of one caller, as this process sees it.

    An item counts as in flight from its reservation to its settlement in the book. Bookings are made one after another;
    what comes meanwhile goes together into the next. While the book is away no item begins.
    """

    def __init__(self, caller: str, budget: CallerBudget, book: AccountBook) -> None:
        self.caller = caller
        self.budget = budget
        self._book = book
        self._asks: list[_Ask] = []
        self._settled: list[Settlement] = []
        self._has_moved = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def reserve(self, cost: Spend) -> Grant | None:
        """Reserve the cost of an item, waiting while only items in flight stand in its way.

        Returns:
            None if the day's budget has no room for it.
        """
        while True:
            self._has_moved.clear()
            answer = await self._ask(cost)
            if isinstance(answer, Grant):
                return answer
            if answer is Refusal.USED_UP:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                    await self._has_moved.wait()

    async def reserve_now(self, cost: Spend) -> Grant | None:
        """Reserve the cost of some items, unless others in flight, or the day's budget, stand in its way."""
        answer = await self._ask(cost)
        return answer if isinstance(answer, Grant) else None

    def settle(self, grant: Grant, actual: Spend | None) -> None:
        """Replace a reservation by what the item cost; ``None``: it was cancelled and counts as what was reserved."""
        self._settled.append(Settlement(grant, actual))
        self._go()

    async def flush(self) -> None:
        """Wait until everything is booked."""
        while self._pump is not None:
            await asyncio.wait([self._pump])

    async def _ask(self, cost: Spend) -> Grant | Refusal:
        ask = _Ask(cost, asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        self._go()
        try:
            return await asyncio.shield(ask.answer)
        except asyncio.CancelledError:
            ask.answer.add_done_callback(self._return_unwanted)
            raise

    def _return_unwanted(self, answer: "asyncio.Future[Grant | Refusal]") -> None:
        """Give back what was reserved for an item that was cancelled before it began."""
        if not answer.cancelled() and answer.exception() is None and isinstance(grant := answer.result(), Grant):
            self.settle(grant, Spend())

    def _go(self) -> None:
        if self._pump is None:
            self._pump = asyncio.create_task(self._book_all(), name=f"account of {self.caller}")

    async def _book_all(self) -> None:
        try:
            while self._asks or self._settled:
                asks, self._asks = self._asks[:_MOST_A_BOOKING], self._asks[_MOST_A_BOOKING:]
                settled, self._settled = self._settled, []
                try:
                    await self._book_some(asks, settled)
                except RunsUnavailableError as error:
                    _LOG.warning("account_not_kept", caller=self.caller, message=error.message)
                    self._asks, self._settled = asks + self._asks, settled + self._settled
                    await asyncio.sleep(_AWAY_SECONDS)
                except Exception as error:  # noqa: BLE001 - whoever waits gets it; the next bookings are tried anew
                    for ask in asks:
                        ask.answer.set_exception(error)
                    _LOG.exception("account_broken", caller=self.caller)
        finally:
            self._pump = None

    async def _book_some(self, asks: Sequence[_Ask], settled: Sequence[Settlement]) -> None:
        asked = [ask.cost for ask in asks]
        answers = await self._book.book(self.caller, self.budget.limit, asked, settled)
        for ask, answer in zip(asks, answers, strict=True):
            ask.answer.set_result(answer)
        if settled:
            self._has_moved.set()


class Allowances:
    """The daily budgets of all callers, in one process."""

    def __init__(self, budgets: CallerBudgets, book: AccountBook) -> None:
        self._budgets = budgets
        self._book = book
        self._allowances: dict[str, Allowance] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to renew what this process holds."""
        await self._book.write_off_earlier()
        self._renewing = asyncio.create_task(self._renew(), name="renewal of reservations")

    async def stop(self) -> None:
        """Book what is left; call it when no item is in flight any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_FLUSH_SECONDS):
                for allowance in self._allowances.values():
                    await allowance.flush()

    def is_limited(self, caller: str) -> bool:
        """Whether a caller has a budget."""
        return self._budgets.of(caller).limit.is_limited

    def of(self, caller: str) -> Allowance:
        """The budget that all runs of a caller in this process share."""
        if caller not in self._allowances:
            self._allowances[caller] = Allowance(caller, self._budgets.of(caller), self._book)
        return self._allowances[caller]

    async def account(self, caller: str) -> CallerAccount:
        """What a caller may spend in a day and where today's account stands."""
        return CallerAccount(caller, self._budgets.of(caller), await self._book.read(caller))

    async def check(self, caller: str) -> None:
        """Refuse a new run of a caller who has nothing left today.

        Raises:
            ResourceExhaustedError: CALLER_BUDGET_EXHAUSTED, with the time until the next day.
        """
        if not self.is_limited(caller):
            return
        account = await self.account(caller)
        limit, today = account.budget.limit, account.today
        gone = used_up(limit, today.spent)
        if not gone:
            return
        listed = ", ".join(f"{getattr(limit, name):,} {name}" for name in gone)
        raise ResourceExhaustedError(
            f"the caller {caller!r} has used up today's budget ({listed}); it begins anew at 00:00 UTC, in "
            f"{today.seconds_left / 3600:.1f} h",
            reason="CALLER_BUDGET_EXHAUSTED",
            metadata={"caller": caller, "pattern": account.budget.pattern, "day": today.day, "used_up": ",".join(gone)},
            retry_after_seconds=today.seconds_left,
            quota_violations=[
                QuotaViolation(
                    f"callers/{caller}",
                    f"{name}: {getattr(today.spent, name):,.0f} of {getattr(limit, name):,} a day",
                )
                for name in gone
            ],
        )

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            try:
                await self._book.renew()
            except RunsUnavailableError as error:
                _LOG.warning("reservations_not_renewed", message=error.message)
            except Exception as error:  # noqa: BLE001 - else all that is held were written off half a minute later
                _LOG.warning("reservations_not_renewed", exc_info=error)
