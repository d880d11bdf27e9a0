"""How deep a run goes: what its tier makes of what the caller asked for."""

import dataclasses
from dataclasses import fields
from typing import Final

from services.evaluation.judging_specification import JudgeChoice
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.gates import DEFAULT_CONFIDENCE, Depth, Goal, GoalWish, parsed_gate, with_metrics
from services.evaluation.runs.model_changes import ModelChange
from services.evaluation.specification import RequestKind
from services.evaluation.suite_specification import BudgetSpec, TierSpec
from services.evaluation.tasks import Suite, Task
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
        depth=_depth(wish.depth, tier),
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
    """The suite as a run with this goal works on it: in the smoke tier only the tasks with gates, at the goal's depth.

    Raises:
        FailedPreconditionError: SAMPLES_NEED_TEMPERATURE: several samples of a task that takes no chance are all equal.
    """
    tasks = suite.tasks
    if goal.tier == SMOKE and goal.precision is None:
        gated = {gate.task for gate in goal.gates}
        tasks = tuple(task for task in tasks if task.name in gated)
    return dataclasses.replace(suite, tasks=tuple(_at_depth(task, goal.depth) for task in tasks))


def _depth(wanted: Depth, tier: TierSpec) -> Depth:
    """The depth that was wanted, filled in with the tier's."""
    judge = tier.safety or JudgeChoice()
    return Depth(
        sample_count=tier.samples if wanted.sample_count is None else wanted.sample_count,
        temperature=tier.temperature if wanted.temperature is None else wanted.temperature,
        guard=judge.guard,
        policy=judge.policy,
        threshold=judge.threshold,
    )


def _at_depth(task: Task, depth: Depth) -> Task:
    """The task with the samples and the judge that a run wants."""
    spec, changes = task.spec, dict[str, object]()
    if spec.request is RequestKind.GENERATE:
        wanted = {"sample_count": depth.sample_count, "temperature": depth.temperature}
        sampling = spec.generation.model_copy(update={name: each for name, each in wanted.items() if each is not None})
        if sampling.sample_count > 1 and sampling.temperature == 0:
            raise FailedPreconditionError(
                f"{sampling.sample_count} samples of an item of {task.name} would all be equal: give a temperature "
                "above 0, too",
                reason="SAMPLES_NEED_TEMPERATURE",
                metadata={"task": task.name},
            )
        if sampling != spec.generation:
            changes["generation"] = sampling
    if spec.safety is not None and depth.replaces_judge:
        changes["safety"] = spec.safety.by(
            JudgeChoice(guard=depth.guard, policy=depth.policy, threshold=depth.threshold)
        )
    return dataclasses.replace(task, spec=spec.model_copy(update=changes)) if changes else task


def _filled(wanted: Budget, given: BudgetSpec) -> Budget:
    """The budget that was wanted; the tier's if nothing of it was."""
    if wanted.is_limited:
        return wanted
    values = {each.name: getattr(given, each.name) for each in fields(Budget) if each.name != "cost_micro_usd"}
    return Budget(**values, cost_micro_usd=None if given.usd is None else round(given.usd * _MICRO_USD))
