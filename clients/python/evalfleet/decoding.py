"""Translate the services' messages into the values of ``evalfleet.results``."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from evalfleet import goal_messages
from evalfleet.aggregation.v1 import aggregation_pb2, drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.generation.v1 import model_pb2
from evalfleet.goals import TaskDecision
from evalfleet.results import (
    CorrectedRate,
    Decision,
    Estimate,
    FailedItem,
    Guard,
    GuardReference,
    HazardCategory,
    HazardScore,
    Interval,
    Model,
    ModelState,
    PassRates,
    Run,
    RunState,
    SetMeasure,
    Suite,
    Task,
    TaskMetric,
    TaskProgress,
    TaskTotals,
    Verdict,
)
from evalfleet.safety.v1 import safety_pb2

_MODEL_STATES = {
    model_pb2.MODEL_STATE_LOADING: ModelState.LOADING,
    model_pb2.MODEL_STATE_READY: ModelState.READY,
    model_pb2.MODEL_STATE_FAILED: ModelState.FAILED,
    model_pb2.MODEL_STATE_EVICTED: ModelState.EVICTED,
}
_ASPECTS: dict[int, str] = {safety_pb2.ASPECT_PROMPT: "prompt", safety_pb2.ASPECT_RESPONSE: "response"}
_RUN_STATES = {
    evaluation_pb2.RUN_STATE_PENDING: RunState.PENDING,
    evaluation_pb2.RUN_STATE_RUNNING: RunState.RUNNING,
    evaluation_pb2.RUN_STATE_SUCCEEDED: RunState.SUCCEEDED,
    evaluation_pb2.RUN_STATE_FAILED: RunState.FAILED,
    evaluation_pb2.RUN_STATE_CANCELLED: RunState.CANCELLED,
}
_DECISIONS = {
    safety_pb2.DECISION_SAFE: Decision.SAFE,
    safety_pb2.DECISION_UNSAFE: Decision.UNSAFE,
    safety_pb2.DECISION_CONTROVERSIAL: Decision.CONTROVERSIAL,
}


def model(message: model_pb2.Model) -> Model:
    """Translate a model; a state that this version does not know becomes UNKNOWN."""
    return Model(
        name=message.name,
        checkpoint_path=message.checkpoint_path,
        digest=message.digest,
        state=_MODEL_STATES.get(message.state, ModelState.UNKNOWN),
        failure=message.failure,
        architecture=message.architecture,
        dtype=message.dtype,
        context_tokens=message.context_tokens,
        weight_bytes=message.weight_bytes,
        create_time=moment(message.create_time) if message.HasField("create_time") else None,
        engine=message.engine,
        foreign=f"{message.foreign.target}/{message.foreign.model_name}" if message.HasField("foreign") else "",
    )


def run_state(number: evaluation_pb2.RunState.ValueType) -> RunState:
    """Translate a state; one that this version does not know becomes UNKNOWN."""
    return _RUN_STATES.get(number, RunState.UNKNOWN)


def run(message: evaluation_pb2.Run) -> Run:
    """Translate a run; a state that this version does not know becomes UNKNOWN."""
    return Run(
        name=message.name,
        suite=message.suite,
        suite_digest=message.suite_digest,
        model=message.model,
        model_digest=message.model_digest,
        state=run_state(message.state),
        failure=message.failure.message,
        seed=message.seed,
        item_limit=message.item_limit if message.HasField("item_limit") else None,
        tasks=tuple(_progress(each) for each in message.tasks),
        create_time=moment(message.create_time) if message.HasField("create_time") else None,
        start_time=moment(message.start_time) if message.HasField("start_time") else None,
        end_time=moment(message.end_time) if message.HasField("end_time") else None,
        stop_reason=goal_messages.stop_reason(message.stop_reason),
        gates=tuple(goal_messages.gate(each) for each in message.gates),
        precision=message.precision if message.HasField("precision") else None,
        confidence=message.confidence,
        budget=goal_messages.budget(message.budget),
        spend=goal_messages.spend(message.spend) if message.HasField("spend") else None,
        tier=message.tier,
        decisions=tuple(goal_messages.decision(each) for each in message.decisions),
        tier_choice=goal_messages.tier_choice(message.tier_choice) if message.HasField("tier_choice") else None,
        escalates=message.escalates,
        earlier_run=message.earlier_run,
        next_run=message.next_run,
        sample_count=message.sample_count if message.HasField("sample_count") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        caller=message.caller,
    )


def run_event(message: evaluation_pb2.RunEvent) -> RunState | TaskDecision:
    """Translate something that happened to a run: its new state, or what was decided about a task."""
    if message.HasField("decision"):
        return goal_messages.decision(message.decision)
    return run_state(message.state)


def _progress(message: evaluation_pb2.TaskProgress) -> TaskProgress:
    return TaskProgress(
        task=message.task,
        item_count=message.item_count if message.HasField("item_count") else None,
        scored_count=message.scored_count,
        failed_count=message.failed_count,
        data_digest=message.data_digest,
    )


def estimate(message: aggregation_pb2.Estimate) -> Estimate:
    """Translate an estimate; what is absent becomes ``None``."""
    return Estimate(
        task=message.task,
        metric=message.metric,
        group=message.group,
        value=message.value if message.HasField("value") else None,
        interval=_interval(message.interval) if message.HasField("interval") else None,
        standard_error=message.standard_error if message.HasField("standard_error") else None,
        scored_count=message.scored_count,
        failed_count=message.failed_count,
        failed_counted=message.failed_counted,
        value_scored_only=message.value_scored_only if message.HasField("value_scored_only") else None,
        sample_count=message.sample_count,
        corrected=_corrected(message.corrected_rate) if message.HasField("corrected_rate") else None,
        task_value=message.task_value if message.HasField("task_value") else None,
        task_interval=_interval(message.task_interval) if message.HasField("task_interval") else None,
        passes=tuple(_passes(each) for each in message.passes),
        unjudged_count=message.unjudged_count,
        failures_by_reason=dict(message.failures_by_reason),
    )


def set_measure(message: aggregation_pb2.SetMeasure) -> SetMeasure:
    """Translate a figure of a set of items."""
    return SetMeasure(
        task=message.task,
        name=message.name,
        group=message.group,
        value=message.value,
        interval=_interval(message.interval) if message.HasField("interval") else None,
        item_count=message.item_count,
        excluded_count=message.excluded_count,
    )


def _passes(message: aggregation_pb2.PassRates) -> PassRates:
    return PassRates(
        k=message.k,
        any_of=message.any_of,
        all_of=message.all_of,
        any_interval=_interval(message.any_interval) if message.HasField("any_interval") else None,
        all_interval=_interval(message.all_interval) if message.HasField("all_interval") else None,
        item_count=message.item_count,
    )


def _corrected(message: aggregation_pb2.CorrectedRate) -> CorrectedRate:
    return CorrectedRate(message.value if message.HasField("value") else None, _interval(message.interval))


def _interval(message: aggregation_pb2.Interval | drawing_pb2.AnytimeInterval) -> Interval:
    return Interval(message.lower, message.upper, message.confidence_level, message.method)


def totals(message: aggregation_pb2.TaskTotals) -> TaskTotals:
    """Translate the totals of a task."""
    return TaskTotals(
        task=message.task,
        item_count=message.item_count,
        scored_count=message.scored_count,
        failed_count=message.failed_count,
        failures_by_reason=dict(message.failures_by_reason),
        truncated_count=message.truncated_count,
        prompt_tokens=message.usage.prompt_tokens,
        completion_tokens=message.usage.completion_tokens,
        engine_seconds=_seconds(message.usage.engine_time),
        computed_tokens=message.usage.computed_prompt_tokens + message.usage.computed_completion_tokens,
        prefix_saved_tokens=message.usage.prefix_saved_tokens,
        cache_saved_tokens=message.usage.cache_saved_tokens,
        cost_usd=message.usage.cost_micro_usd / 1e6,
    )


def failed_items(message: aggregation_pb2.Result) -> Iterator[FailedItem]:
    """Translate a result that failed, or of which metrics did: then one entry a failure."""
    key = (message.task, message.item, message.sample)
    if message.HasField("failure"):
        yield FailedItem(*key, message.failure.reason, message.failure.message)
        return
    for each in message.metric_failures:
        yield FailedItem(*key, each.reason, each.message, tuple(each.metrics))


def suite(message: evaluation_pb2.Suite) -> Suite:
    """Translate a suite and its tasks."""
    tasks = tuple(
        Task(
            name=each.name,
            description=each.description,
            primary_metric=each.primary_metric,
            higher_is_better=each.higher_is_better,
            comparable_to=each.comparable_to,
            metrics=tuple(TaskMetric(one.name, one.higher_is_better, one.description) for one in each.metrics),
        )
        for each in message.tasks
    )
    return Suite(
        name=message.name,
        description=message.description,
        digest=message.digest,
        tasks=tasks,
        tiers=tuple(goal_messages.tier(each) for each in message.tiers),
    )


def verdict(message: safety_pb2.Verdict) -> Verdict:
    """Translate a verdict; a decision that this version does not know becomes ERROR, never SAFE."""
    return Verdict(
        decision=_DECISIONS.get(message.decision, Decision.ERROR),
        unsafe_probability=message.unsafe_probability if message.HasField("unsafe_probability") else None,
        categories=tuple(
            HazardScore(
                taxonomy=each.taxonomy,
                code=each.code,
                ailuminate_code=each.ailuminate_code,
                probability=each.probability if each.HasField("probability") else None,
            )
            for each in message.categories
        ),
        guard=message.guard.name,
        threshold=message.threshold_applied if message.HasField("threshold_applied") else None,
        truncated=message.truncated,
        windows=message.windows or 1,
        unjudged_reason=message.unjudged_reason,
        error_reason=message.error_reason,
        refusal=message.refusal if message.HasField("refusal") else None,
        over_refusal=message.over_refusal if message.HasField("over_refusal") else None,
        cached=message.cached,
        unmapped=message.unmapped,
        guard_reference=guard_reference(message.guard) if message.HasField("guard") else None,
        policy=message.policy.name,
        policy_digest=message.policy.digest,
        guard_verdicts=tuple(verdict(each) for each in message.guard_verdicts),
        computed_tokens=message.usage.computed_prompt_tokens + message.usage.computed_completion_tokens,
        engine_seconds=_seconds(message.usage.engine_time),
    )


def guard_reference(message: safety_pb2.GuardReference) -> GuardReference:
    """Translate which exact guard judged."""
    return GuardReference(
        name=message.name,
        weights_digest=message.weights_digest,
        template_digest=message.template_digest,
        calibration_digest=message.calibration_digest,
        engine=message.engine,
        dtype=message.dtype,
    )


def guard(message: safety_pb2.Guard) -> Guard:
    """Translate what a guard is and can do."""
    return Guard(
        name=message.name,
        description=message.description,
        reference=guard_reference(message.reference),
        aspects=aspects(message.aspects),
        categories=tuple(
            HazardCategory(each.taxonomy, each.taxonomy_version, each.code, each.title, each.ailuminate_code)
            for each in message.categories
        ),
        default_threshold=message.default_threshold if message.HasField("default_threshold") else None,
        max_tokens=message.max_tokens or None,
    )


def aspects(numbers: Iterable[int]) -> tuple[str, ...]:
    """Translate what can be judged; what this version does not know is left out."""
    return tuple(_ASPECTS[each] for each in numbers if each in _ASPECTS)


def moment(stamp: Timestamp) -> datetime:
    """Translate a point in time."""
    return stamp.ToDatetime(tzinfo=UTC)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
