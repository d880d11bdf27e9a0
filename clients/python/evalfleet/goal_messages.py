"""Translate gates, budgets and decisions between ``evalfleet.goals`` and the services' messages."""

import datetime
from collections.abc import Iterable
from dataclasses import asdict

from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.goals import (
    Answer,
    Budget,
    CallerBudget,
    CostBasis,
    Gate,
    ModelChange,
    QuestionDecision,
    RunPlan,
    Spend,
    StopReason,
    TaskDecision,
    TaskPlan,
    Tier,
    TierChoice,
)
from evalfleet.names import full_name

_STOP_REASONS = {
    evaluation_pb2.STOP_REASON_COMPLETE: StopReason.COMPLETE,
    evaluation_pb2.STOP_REASON_DECIDED: StopReason.DECIDED,
    evaluation_pb2.STOP_REASON_GATE_FAILED: StopReason.GATE_FAILED,
    evaluation_pb2.STOP_REASON_BUDGET_EXHAUSTED: StopReason.BUDGET_EXHAUSTED,
    evaluation_pb2.STOP_REASON_CALLER_BUDGET_EXHAUSTED: StopReason.CALLER_BUDGET_EXHAUSTED,
}
_CHANGES = {
    ModelChange.UNCHANGED: evaluation_pb2.MODEL_CHANGE_UNCHANGED,
    ModelChange.ADAPTER: evaluation_pb2.MODEL_CHANGE_ADAPTER,
    ModelChange.MINOR: evaluation_pb2.MODEL_CHANGE_MINOR,
    ModelChange.MAJOR: evaluation_pb2.MODEL_CHANGE_MAJOR,
}
_CHANGES_FOUND = {number: change for change, number in _CHANGES.items()}
_BASES = {
    evaluation_pb2.COST_BASIS_SAME_MODEL: CostBasis.SAME_MODEL,
    evaluation_pb2.COST_BASIS_OTHER_MODEL: CostBasis.OTHER_MODEL,
    evaluation_pb2.COST_BASIS_PROMPTS: CostBasis.PROMPTS,
}
_ANSWERS = {
    drawing_pb2.QUESTION_STATE_PASSED: Answer.PASSED,
    drawing_pb2.QUESTION_STATE_FAILED: Answer.FAILED,
    drawing_pb2.QUESTION_STATE_REACHED: Answer.REACHED,
}


def gate_message(gate: Gate) -> evaluation_pb2.Gate:
    """Translate a gate that is asked for."""
    direction = drawing_pb2.GATE_DIRECTION_AT_LEAST if gate.at_least else drawing_pb2.GATE_DIRECTION_AT_MOST
    return evaluation_pb2.Gate(task=gate.task, metric=gate.metric, direction=direction, threshold=gate.threshold)


def add_goal(
    request: evaluation_pb2.CreateRunRequest,
    *,
    gates: Iterable[Gate | str],
    precision: float | None,
    confidence: float | None,
    budget: Budget | str | None,
    tier: str,
    use_history: bool | None,
    previous_run: str = "",
    change: ModelChange | str | None = None,
    sample_count: int | None = None,
    temperature: float | None = None,
) -> None:
    """Add to a request what its run is to find out; ``None`` leaves it to the service.

    Raises:
        ValueError: a gate, the budget or the change cannot be read.
    """
    if sample_count is not None:
        request.sample_count = sample_count
    if temperature is not None:
        request.temperature = temperature
    if change is not None:
        request.change = _CHANGES[ModelChange(change)]
    request.gates.extend(gate_message(Gate.parse(each) if isinstance(each, str) else each) for each in gates)
    request.tier = tier
    request.previous_run = full_name("runs", previous_run) if previous_run else ""
    if precision is not None:
        request.precision = precision
    if confidence is not None:
        request.confidence = confidence
    if use_history is not None:
        request.use_history = use_history
    if budget is not None:
        request.budget.CopyFrom(budget_message(Budget.parse(budget) if isinstance(budget, str) else budget))


def plan(message: evaluation_pb2.EstimateRunResponse) -> RunPlan:
    """Translate what a run would probably cost."""
    tasks = tuple(
        TaskPlan(
            task=each.task,
            item_count=each.item_count,
            expected_item_count=each.expected_item_count,
            expected=spend(each.expected),
            basis=_BASES.get(each.basis, CostBasis.UNKNOWN),
            basis_run=each.basis_run,
        )
        for each in message.tasks
    )
    return RunPlan(
        tasks,
        spend(message.expected),
        message.exceeds_budget,
        message.exceeds_caller_budget,
        caller_budget(message.caller_budget) if message.HasField("caller_budget") else None,
    )


def caller_budget(message: evaluation_pb2.CallerBudget) -> CallerBudget:
    """Translate what a caller may spend in a day."""
    return CallerBudget(
        caller=message.caller,
        pattern=message.pattern,
        day=message.day,
        limit=budget(message.limit),
        spent=spend(message.spent),
        reserved=spend(message.reserved),
        reset_time=message.reset_time.ToDatetime(datetime.UTC),
    )


def tier_choice(message: evaluation_pb2.TierChoice) -> TierChoice:
    """Translate why a run has its tier."""
    change = _CHANGES_FOUND.get(message.change, ModelChange.MAJOR)
    return TierChoice(change, message.compared_run, message.reason)


def tier(message: evaluation_pb2.Tier) -> Tier:
    """Translate a tier of a suite."""
    return Tier(
        name=message.name,
        gates=tuple(gate(each) for each in message.gates),
        precision=message.precision if message.HasField("precision") else None,
        budget=budget(message.budget),
        stops_at_failure=message.stops_at_failure,
        starts_for=tuple(_CHANGES_FOUND[each] for each in message.starts_for if each in _CHANGES_FOUND),
        sample_count=message.sample_count if message.HasField("sample_count") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        safety_judge=message.safety_judge,
    )


def gate(message: evaluation_pb2.Gate) -> Gate:
    """Translate a gate of a run."""
    return Gate(
        message.task, message.direction == drawing_pb2.GATE_DIRECTION_AT_LEAST, message.threshold, message.metric
    )


def budget_message(budget: Budget) -> evaluation_pb2.Budget:
    """Translate a budget that is asked for."""
    return evaluation_pb2.Budget(**asdict(budget))


def budget(message: evaluation_pb2.Budget) -> Budget:
    """Translate the budget of a run."""
    return Budget(
        items=message.items if message.HasField("items") else None,
        tokens=message.tokens if message.HasField("tokens") else None,
        engine_seconds=message.engine_seconds if message.HasField("engine_seconds") else None,
        cost_micro_usd=message.cost_micro_usd if message.HasField("cost_micro_usd") else None,
        wall_seconds=message.wall_seconds if message.HasField("wall_seconds") else None,
    )


def spend(message: evaluation_pb2.Spend) -> Spend:
    """Translate what a run has spent."""
    return Spend(message.items, message.tokens, message.engine_seconds, message.cost_micro_usd, message.wall_seconds)


def stop_reason(number: evaluation_pb2.StopReason.ValueType) -> StopReason:
    """Translate why a run ended; a reason that this version does not know becomes UNKNOWN."""
    return _STOP_REASONS.get(number, StopReason.UNKNOWN)


def decision(message: drawing_pb2.TaskDecision) -> TaskDecision:
    """Translate what is decided about a task; an answer that this version does not know becomes UNDECIDED."""
    return TaskDecision(
        task=message.task,
        metric=message.metric,
        questions=tuple(_question(each) for each in message.questions),
        is_decided=message.is_decided,
        value=message.value if message.HasField("value") else None,
        lower=message.interval.lower,
        upper=message.interval.upper,
        confidence_level=message.interval.confidence_level,
        completed_count=message.completed_count,
        drawn_count=message.drawn_count,
        item_count=message.item_count,
        saved_count=message.saved_count,
        unknown_count=message.unknown_count,
        is_exact=message.is_exact,
        draws_digest=message.draws_digest,
    )


def _question(message: drawing_pb2.QuestionDecision) -> QuestionDecision:
    asked = message.question
    match asked.WhichOneof("kind"):
        case "gate":
            sign = ">=" if asked.gate.direction == drawing_pb2.GATE_DIRECTION_AT_LEAST else "<="
            text = f"{sign}{asked.gate.threshold:g}"
        case "precision":
            text = f"±{asked.precision.half_width:g}"
        case "rare_rate":
            text = f"<{asked.rare_rate.below:g}"
        case _:
            text = "?"
    return QuestionDecision(
        question=text,
        is_gate=not asked.HasField("precision"),
        answer=_ANSWERS.get(message.state, Answer.UNDECIDED),
        decided_after=message.decided_after if message.HasField("decided_after") else None,
    )
