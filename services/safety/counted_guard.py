"""Counts what guards decide, so that a guard that begins to err, or a model that turns unsafe, is seen."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

from services.runtime.errors import FleetError
from services.safety.guard import Guard
from services.safety.judgement import Decision, GuardDescription, JudgedTurn, Verdict

_AWAY = "unjudged"


class VerdictMetrics:
    """Verdicts by guard and decision.

    Args:
        registry: receives the counter.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "evalfleet_safety_verdicts",
            "Verdicts by guard and decision; unjudged: the guard was away, overloaded or out of time.",
            labelnames=("guard", "decision"),
            registry=registry,
        )

    def expect(self, guard: str) -> None:
        """Show a guard with zeros, so that its first error is a rise."""
        for decision in (*(each.value for each in Decision), _AWAY):
            self._verdicts.labels(guard, decision)

    def count(self, guard: str, decision: str, number: int = 1) -> None:
        """Count so many verdicts."""
        self._verdicts.labels(guard, decision).inc(number)


class CountedGuard:
    """Implements ``Guard`` with the verdicts of another.

    Args:
        inner: judges.
        metrics: counts.
    """

    def __init__(self, inner: Guard, metrics: VerdictMetrics) -> None:
        self._inner = inner
        self._metrics = metrics
        metrics.expect(inner.about.name)

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._inner.about

    async def is_ready(self) -> bool:
        """Return whether it can judge now."""
        return await self._inner.is_ready()

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns; raises as the inner guard does."""
        name = self._inner.about.name
        try:
            verdicts = await self._inner.judge(turns)
        except FleetError:
            self._metrics.count(name, _AWAY, len(turns))
            raise
        for each in verdicts:
            self._metrics.count(name, each.decision.value)
        return verdicts
