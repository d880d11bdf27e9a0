"""Puts a price on what guards compute, by the fleet's price table."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.runtime.errors import FleetError
from services.runtime.prices import PriceTable
from services.runtime.usage import Usage, usage_of, with_usage
from services.safety.guard import Guard
from services.safety.judgement import GuardDescription, JudgedTurn, Verdict

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
        try:
            verdicts = await self._inner.judge(turns)
        except FleetError as error:
            raise with_usage(error, self._priced(usage_of(error))) from error
        return [replace(each, usage=self._priced(each.usage)) for each in verdicts]

    def _priced(self, usage: Usage) -> Usage:
        reference = self._inner.about.reference
        nano_usd = self._prices.nano_usd(reference.name, reference.engine, usage)
        return replace(usage, cost_micro_usd=-(-nano_usd // _NANO_PER_MICRO)) if nano_usd else usage
