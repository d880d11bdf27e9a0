"""How deep a run goes: what its tier makes of what the caller asked for."""

import dataclasses
from dataclasses import fields
from typing import Final

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.gates import DEFAULT_CONFIDENCE, Goal, GoalWish, parsed_gate, with_metrics
from services.evaluation.runs.model_changes import ModelChange
from services.evaluation.specification import BudgetSpec, TierSpec
from services.evaluation.tasks import Suite
from services.runtime.errors import FailedPreconditionError

SMOKE: Final = "smoke"
STANDARD: Final = "standard"
DEEP: Final = "deep"
TIERS: Final = (SMOKE, STANDARD, DEEP)
AUTO: Final = "auto"
"""A run of this tier gets one of the others, by what is new in its model."""
STANDARD_PRECISION: Final = 0.02
"""Half-width at which a task without a gate stops in the standard tier of a suite that says nothing else."""

_MICRO_USD = 1e6


def goal_of(wish: GoalWish, suite: Suite) -> Goal:
    """What a run of ``suite`` is to find out: the caller's wishes, then those of its tier, then the defaults.

    A tier that the suite does not define has what all tiers of its name have: ``smoke`` stops at the first gate that
    fails, ``standard`` stops tasks without a gate at ±2 points, ``deep`` runs everything.

    Raises:
        NotFoundError: a gate names a task or a metric that there is not.
        InvalidArgumentError: GATES_OF_TWO_METRICS.
        FailedPreconditionError: TIER_NEEDS_GATES: a smoke run without gates has nothing to stop at.
    """
    tier = suite.tiers.get(wish.tier, TierSpec())
    gates = wish.gates or tuple(parsed_gate(text) for text in tier.gates)
    precision = wish.precision if wish.precision is not None else tier.precision
    if precision is None and wish.tier == STANDARD:
        precision = STANDARD_PRECISION
    if wish.tier == SMOKE and not gates:
        raise FailedPreconditionError(
            f"the suite {suite.name} has no smoke tier with gates; give a gate, e.g. {suite.tasks[0].name}>=0.5",
            reason="TIER_NEEDS_GATES",
            metadata={"suite": suite.name},
        )
    stops = wish.stops_at_failure if wish.stops_at_failure is not None else wish.tier == SMOKE
    return Goal(
        gates=with_metrics(gates, suite),
        precision=precision,
        confidence=DEFAULT_CONFIDENCE if wish.confidence is None else wish.confidence,
        budget=_filled(wish.budget, tier.budget),
        tier=wish.tier,
        uses_history=wish.uses_history is not False,
        stops_at_failure=stops,
        previous_run=wish.previous_run,
    )


def starting_tier(suite: Suite, change: ModelChange, reason: str, wish: GoalWish) -> tuple[str, str]:
    """The tier in which a run begins whose model has changed so, and why.

    Args:
        suite: says where to begin.
        change: what is new in the model.
        reason: how that was found.
        wish: a smoke run without gates has nothing to stop at, so that without any the next tier is taken.
    """
    tier = suite.starting_tiers[change.value]
    if not (wish.gates or tier_exists(tier, suite)):
        return STANDARD, f"{reason}; {SMOKE} needs gates, so {STANDARD} stands in for it"
    return tier, reason


def tier_exists(tier: str, suite: Suite) -> bool:
    """Whether runs of a suite can have a tier without gates of their own."""
    return tier != SMOKE or bool(suite.tiers.get(SMOKE, TierSpec()).gates)


def next_tier(tier: str) -> str | None:
    """The tier after this one; ``None`` after the deepest."""
    index = TIERS.index(tier) + 1
    return TIERS[index] if index < len(TIERS) else None


def suite_for(goal: Goal, suite: Suite) -> Suite:
    """The suite with the tasks that a run with this goal works on: in the smoke tier those with gates."""
    if goal.tier != SMOKE or goal.precision is not None:
        return suite
    gated = {gate.task for gate in goal.gates}
    return dataclasses.replace(suite, tasks=tuple(task for task in suite.tasks if task.name in gated))


def _filled(wanted: Budget, given: BudgetSpec) -> Budget:
    """The budget that was wanted; the tier's if nothing of it was."""
    if wanted.is_limited:
        return wanted
    values = {each.name: getattr(given, each.name) for each in fields(Budget) if each.name != "cost_micro_usd"}
    return Budget(**values, cost_micro_usd=None if given.usd is None else round(given.usd * _MICRO_USD))
