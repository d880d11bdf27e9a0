"""Translate between the aggregation contract's messages and the domain."""

from collections.abc import Iterable, Sequence

from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from google.protobuf.duration_pb2 import Duration

from services.aggregation.checks import MAX_NAME_CHARACTERS, MAX_RESULTS_A_MESSAGE, violations_of
from services.aggregation.corrected_rates import CorrectedRate, GuardQuality
from services.aggregation.errors import InvalidLedgerRequestError, InvalidResultError
from services.aggregation.estimation import Estimate, TaskTotals
from services.aggregation.intervals import Interval
from services.aggregation.measures.passes import PassRates
from services.aggregation.records import (
    Cost,
    Failed,
    Judge,
    ListedKey,
    MetricFailure,
    Result,
    ResultKey,
    RunLease,
    Scored,
)
from services.aggregation.set_measures import SetMeasure
from services.runtime.errors import FieldViolation

_NANOSECONDS = 1_000_000_000
_TEXTS = {
    "prompt": aggregation_pb2.RESULT_TEXT_PROMPT,
    "output": aggregation_pb2.RESULT_TEXT_OUTPUT,
    "extracted_answer": aggregation_pb2.RESULT_TEXT_EXTRACTED_ANSWER,
}


def results_from_proto(request: aggregation_pb2.AppendResultsRequest) -> list[Result]:
    """Check and translate a message of results.

    Raises:
        InvalidResultError: too many, or names the first bad one and all that is wrong with it.
    """
    count = len(request.results)
    if count > MAX_RESULTS_A_MESSAGE:
        raise InvalidResultError(
            f"a message holds up to {MAX_RESULTS_A_MESSAGE} results, this one {count}; split it",
            metadata={"limit": str(MAX_RESULTS_A_MESSAGE), "results": str(count)},
            field_violations=(FieldViolation("results", f"has {count} entries"),),
        )
    return [_checked(index, result) for index, result in enumerate(request.results)]


def lease_from_proto(request: aggregation_pb2.AppendResultsRequest) -> RunLease | None:
    """Return the lease under which a message of results was sent, if any.

    Raises:
        InvalidResultError: it is malformed, or a result is of another run.
    """
    if not request.HasField("lease"):
        return None
    lease = RunLease(request.lease.run, request.lease.epoch)
    problem = ""
    if (
        not lease.run.startswith("runs/")
        or "\0" in lease.run
        or not len("runs/") < len(lease.run) <= MAX_NAME_CHARACTERS
    ):
        problem = f"is of {lease.run[:80]!r}; write runs/{{run}}"
    elif lease.epoch < 1:
        problem = f"has epoch {lease.epoch}; epochs count from 1"
    elif any(result.run != lease.run for result in request.results):
        problem = f"is of {lease.run}, and a result is not"
    if problem:
        raise InvalidResultError(
            f"nothing of this message was stored: lease {problem}", field_violations=(FieldViolation("lease", problem),)
        )
    return lease


def _checked(index: int, result: aggregation_pb2.Result) -> Result:
    violations = [
        FieldViolation(f"results[{index}].{each.field}".rstrip("."), each.description) for each in violations_of(result)
    ]
    if not violations:
        return result_from_proto(result)
    listed = "; ".join(f"{each.field} {each.description}" for each in violations[:5])
    key = {"run": result.run, "task": result.task, "item": result.item, "sample": str(result.sample)}
    raise InvalidResultError(
        f"nothing of this message was stored: {listed}",
        metadata={"result_index": str(index), **key},
        field_violations=violations,
    )


def result_from_proto(message: aggregation_pb2.Result) -> Result:
    """Translate a checked result."""
    usage = message.usage
    has_time = message.HasField("complete_time")
    return Result(
        run=message.run,
        key=ResultKey(message.task, message.item, message.sample),
        outcome=_outcome_from_proto(message),
        groups=dict(message.groups),
        draw_index=message.draw_index,
        cost=Cost(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.engine_time.seconds * _NANOSECONDS + usage.engine_time.nanos,
            usage.computed_prompt_tokens,
            usage.computed_completion_tokens,
            usage.prefix_saved_tokens,
            usage.cache_saved_tokens,
            usage.cost_micro_usd,
        ),
        judges=tuple(Judge(judge.name, judge.version, judge.digest) for judge in message.judges),
        model_digest=message.model_digest,
        prompt=message.prompt,
        output=message.output,
        complete_microseconds=message.complete_time.ToMicroseconds() if has_time else None,
        is_truncated=message.truncated,
        targets=tuple(message.targets),
    )


def result_to_proto(result: Result) -> aggregation_pb2.Result:
    """Give back everything that was stored."""
    message = aggregation_pb2.Result(
        run=result.run,
        task=result.key.task,
        item=result.key.item,
        sample=result.key.sample,
        groups=result.groups,
        draw_index=result.draw_index,
        usage=cost_to_proto(result.cost),
        judges=[
            common_pb2.JudgeReference(name=judge.name, version=judge.version, digest=judge.digest)
            for judge in result.judges
        ],
        model_digest=result.model_digest,
        prompt=result.prompt,
        output=result.output,
        truncated=result.is_truncated,
        targets=result.targets,
        pruned_texts=[_TEXTS[each] for each in result.pruned_texts],
    )
    if result.complete_microseconds is not None:
        message.complete_time.FromMicroseconds(result.complete_microseconds)
    message.metric_failures.extend(
        aggregation_pb2.MetricFailure(
            metrics=each.metrics, reason=each.reason, message=each.message, counted_as=each.counted_as
        )
        for each in result.outcome.failures
    )
    match result.outcome:
        case Scored(metrics, answer):
            message.scored.CopyFrom(aggregation_pb2.Scored(metrics=metrics, extracted_answer=answer))
        case Failed(reason, text, counted_as):
            message.failure.CopyFrom(aggregation_pb2.Failure(reason=reason, message=text, counted_as=counted_as))
    return message


def listed_key_to_proto(run: str, listed: ListedKey) -> aggregation_pb2.Result:
    """Give back a key and whether it is scored or failed."""
    message = aggregation_pb2.Result(
        run=run,
        task=listed.key.task,
        item=listed.key.item,
        sample=listed.key.sample,
        draw_index=listed.draw_index,
    )
    if listed.failure_reason is None:
        message.scored.SetInParent()
    else:
        message.failure.reason = listed.failure_reason
    return message


def qualities_from_proto(request: aggregation_pb2.GetEstimatesRequest) -> dict[str, GuardQuality]:
    """Return the quality of the guards that a request tells, by metric.

    Raises:
        InvalidLedgerRequestError: a metric is missing or told twice, or counts cannot be.
    """
    qualities: dict[str, GuardQuality] = {}
    for index, each in enumerate(request.guard_qualities):
        if not each.metric or each.metric in qualities:
            raise InvalidLedgerRequestError(
                f"guard_qualities[{index}].metric", f"is {each.metric!r}; name every metric once"
            )
        try:
            qualities[each.metric] = GuardQuality(
                unsafe_count=each.unsafe_count,
                unsafe_found=each.unsafe_found_count,
                safe_count=each.safe_count,
                safe_cleared=each.safe_cleared_count,
            )
        except ValueError as error:
            raise InvalidLedgerRequestError(f"guard_qualities[{index}]", str(error)) from error
    return qualities


def measured_judges_from_proto(request: aggregation_pb2.GetEstimatesRequest) -> dict[str, Judge]:
    """Return whose quality was measured, by metric, where a request tells it.

    Raises:
        InvalidLedgerRequestError: a name or a digest is missing.
    """
    judges: dict[str, Judge] = {}
    for index, each in enumerate(request.guard_qualities):
        if each.HasField("judge"):
            if not each.judge.name or not each.judge.digest:
                raise InvalidLedgerRequestError(f"guard_qualities[{index}].judge", "needs a name and a digest")
            judges[each.metric] = Judge(each.judge.name, each.judge.version, each.judge.digest)
    return judges


def estimates_to_proto(
    estimates: Iterable[Estimate], totals: Sequence[TaskTotals], set_measures: Iterable[SetMeasure]
) -> aggregation_pb2.GetEstimatesResponse:
    """Translate a run's estimates, totals and figures of whole sets."""
    return aggregation_pb2.GetEstimatesResponse(
        estimates=[_estimate_to_proto(estimate) for estimate in estimates],
        totals=[_totals_to_proto(each) for each in totals],
        set_measures=[
            aggregation_pb2.SetMeasure(
                task=each.task,
                name=each.name,
                group=each.group,
                value=each.value,
                interval=_interval_to_proto(each.interval) if each.interval else None,
                item_count=each.item_count,
                excluded_count=each.excluded_count,
            )
            for each in sorted(set_measures, key=lambda each: each.task)
        ],
    )


def cost_to_proto(cost: Cost) -> common_pb2.Usage:
    """Translate a cost."""
    seconds, nanos = divmod(cost.engine_nanoseconds, _NANOSECONDS)
    return common_pb2.Usage(
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        engine_time=Duration(seconds=seconds, nanos=nanos),
        computed_prompt_tokens=cost.computed_prompt_tokens,
        computed_completion_tokens=cost.computed_completion_tokens,
        prefix_saved_tokens=cost.prefix_saved_tokens,
        cache_saved_tokens=cost.cache_saved_tokens,
        cost_micro_usd=cost.cost_micro_usd,
    )


def _outcome_from_proto(message: aggregation_pb2.Result) -> Scored | Failed:
    failures = tuple(
        MetricFailure(tuple(each.metrics), each.reason, each.message, dict(each.counted_as))
        for each in message.metric_failures
    )
    if message.HasField("scored"):
        scored = message.scored
        answer = scored.extracted_answer if scored.HasField("extracted_answer") else None
        return Scored(dict(scored.metrics), answer, failures)
    failure = message.failure
    return Failed(failure.reason, failure.message, dict(failure.counted_as), failures)


def _estimate_to_proto(estimate: Estimate) -> aggregation_pb2.Estimate:
    return aggregation_pb2.Estimate(
        task=estimate.task,
        metric=estimate.metric,
        group=estimate.group,
        value=estimate.value,
        interval=_interval_to_proto(estimate.interval) if estimate.interval else None,
        standard_error=estimate.standard_error,
        scored_count=estimate.scored_count,
        failed_count=estimate.failed_count,
        failed_counted=estimate.failed_counted,
        value_scored_only=estimate.value_scored_only,
        sample_count=estimate.sample_count,
        corrected_rate=_corrected_to_proto(estimate.corrected) if estimate.corrected else None,
        passes=[_passes_to_proto(each) for each in estimate.passes],
        unjudged_count=estimate.unjudged_count,
        failures_by_reason=estimate.failures_by_reason,
    )


def _passes_to_proto(rates: PassRates) -> aggregation_pb2.PassRates:
    return aggregation_pb2.PassRates(
        k=rates.k,
        any_of=rates.any_of,
        all_of=rates.all_of,
        any_interval=_interval_to_proto(rates.any_interval) if rates.any_interval else None,
        all_interval=_interval_to_proto(rates.all_interval) if rates.all_interval else None,
        item_count=rates.item_count,
    )


def _corrected_to_proto(corrected: CorrectedRate) -> aggregation_pb2.CorrectedRate:
    return aggregation_pb2.CorrectedRate(value=corrected.value, interval=_interval_to_proto(corrected.interval))


def _interval_to_proto(interval: Interval) -> aggregation_pb2.Interval:
    return aggregation_pb2.Interval(
        lower=interval.lower,
        upper=interval.upper,
        confidence_level=interval.confidence_level,
        method=interval.method,
    )


def _totals_to_proto(totals: TaskTotals) -> aggregation_pb2.TaskTotals:
    return aggregation_pb2.TaskTotals(
        task=totals.task,
        item_count=totals.item_count,
        scored_count=totals.scored_count,
        failed_count=totals.failed_count,
        failures_by_reason=totals.failures_by_reason,
        truncated_count=totals.truncated_count,
        usage=cost_to_proto(totals.cost),
    )
