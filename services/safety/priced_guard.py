"""Puts a price on what guards compute, by the fleet's price table."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.runtime.errors import FleetError
from services.runtime.prices import PriceTable
from services.runtime.usage import Usage, usage_of, with_usage
from services.safety.guard import Guard
from services.safety.judgement import GuardDescription, GuardReference, JudgedTurn, Verdict

_NANO_PER_MICRO: Final = 1000


class PricedGuard:
    """Implements ``Guard`` with the verdicts and failures of another, and what they cost in money.

    Args:
        inner: judges.
        prices: what computing costs; a guard's name there is its resource name, ``guards/{guard}``.
    """

    def __init__(self, inner: Guard, prices: PriceTable) -> None:
        self._inner = inner
        self._prices = prices

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._inner.about

    async def is_ready(self) -> bool:
        """Return whether it can judge now."""
        return await self._inner.is_ready()

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns; raises as the inner guard does."""
        reference = self._inner.about.reference
        try:
            verdicts = await self._inner.judge(turns)
        except FleetError as error:
            raise with_usage(error, priced(usage_of(error), reference, self._prices)) from error
        return [replace(each, usage=priced(each.usage, reference, self._prices)) for each in verdicts]


def priced(usage: Usage, guard: GuardReference, prices: PriceTable) -> Usage:
    """Return what a guard's model computed with its price; a part of a millionth of a dollar counts as one."""
    nano_usd = prices.nano_usd(guard.name, guard.engine, usage)
    return replace(usage, cost_micro_usd=-(-nano_usd // _NANO_PER_MICRO)) if nano_usd else usage
