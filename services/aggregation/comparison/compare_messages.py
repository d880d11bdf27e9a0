"""Translate between comparison.proto and the domain."""

from typing import Final

from evalfleet.aggregation.v1 import comparison_pb2

from services.aggregation.comparison.comparing import ComparedRuns, Comparison, ComparisonRequest, MetricRequest
from services.aggregation.comparison.margins import MarginOutcome, Verdict
from services.aggregation.comparison.request_checks import check_names, check_share, checked_run
from services.aggregation.errors import InvalidLedgerRequestError
from services.aggregation.intervals import DEFAULT_CONFIDENCE_LEVEL, Interval

_DECISIONS: Final = {
    None: comparison_pb2.COMPARISON_DECISION_UNSPECIFIED,
    Verdict.UNDECIDED: comparison_pb2.COMPARISON_DECISION_UNDECIDED,
    Verdict.NOT_INFERIOR: comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR,
    Verdict.INFERIOR: comparison_pb2.COMPARISON_DECISION_INFERIOR,
}


def comparison_request(request: comparison_pb2.CompareRunsRequest) -> ComparisonRequest:
    """Check and translate a request to compare runs.

    Raises:
        InvalidLedgerRequestError: says what is wrong.
    """
    level = request.confidence_level if request.HasField("confidence_level") else DEFAULT_CONFIDENCE_LEVEL
    if not 0.5 < level < 1:
        raise InvalidLedgerRequestError("confidence_level", f"is {level}; it lies above 0.5 and below 1")
    margin = request.margin if request.HasField("margin") else None
    if margin is not None:
        check_share("margin", margin)
    base, variant = checked_run("base_run", request.base_run), checked_run("variant_run", request.variant_run)
    if base == variant:
        raise InvalidLedgerRequestError("variant_run", "is the base itself")
    check_names("metrics", [(each.task, each.metric) for each in request.metrics])
    for index, each in enumerate(request.metrics):
        if each.HasField("item_count") and each.item_count < 1:
            raise InvalidLedgerRequestError(f"metrics[{index}].item_count", f"is {each.item_count}; it counts items")
    return ComparisonRequest(
        base_run=base,
        variant_run=variant,
        metrics=tuple(
            MetricRequest(
                task=each.task,
                metric=each.metric,
                lower_is_better=each.lower_is_better,
                digests=(each.base_digest, each.variant_digest),
                item_count=each.item_count if each.HasField("item_count") else None,
            )
            for each in request.metrics
        ),
        margin=margin,
        confidence_level=level,
        cluster_column=request.cluster_column,
        allow_unpaired=request.allow_unpaired,
    )


def compared_to_proto(compared: ComparedRuns) -> comparison_pb2.CompareRunsResponse:
    """Translate everything that was compared."""
    return comparison_pb2.CompareRunsResponse(
        comparisons=[_comparison_to_proto(each) for each in compared.comparisons], decision=_DECISIONS[compared.verdict]
    )


def _comparison_to_proto(comparison: Comparison) -> comparison_pb2.Comparison:
    numbers = comparison.numbers
    is_paired = not comparison.unpaired_reasons
    return comparison_pb2.Comparison(
        task=comparison.wanted.task,
        metric=comparison.wanted.metric,
        lower_is_better=comparison.wanted.lower_is_better,
        pairing=comparison_pb2.PAIRING_PAIRED if is_paired else comparison_pb2.PAIRING_UNPAIRED,
        unpaired_reasons=comparison.unpaired_reasons,
        item_count=numbers.item_count,
        base_only_count=comparison.base_only_count,
        variant_only_count=comparison.variant_only_count,
        excluded_count=comparison.excluded_count,
        partial_draw=comparison.is_partial_draw,
        base_value=numbers.base_value,
        variant_value=numbers.variant_value,
        difference=numbers.difference,
        interval=_interval_to_proto(numbers.interval),
        standard_error=numbers.standard_error,
        cluster_count=numbers.cluster_count,
        p_value=numbers.p_value,
        p_value_method=numbers.p_value_method,
        adjusted_p_value=comparison.adjusted_p_value,
        effect_size=numbers.effect_size,
        least_detectable=numbers.least_detectable,
        variant_higher_count=numbers.variant_higher_count,
        base_higher_count=numbers.base_higher_count,
        margin_decision=None if comparison.margin is None else _margin_to_proto(comparison.margin),
    )


def _margin_to_proto(outcome: MarginOutcome) -> comparison_pb2.MarginDecision:
    return comparison_pb2.MarginDecision(
        decision=_DECISIONS[outcome.verdict],
        decided_after=outcome.decided_after,
        prefix_count=outcome.prefix_count,
        item_count=outcome.item_count,
        superior=outcome.is_superior,
        interval=_interval_to_proto(outcome.interval),
        undecided_reason=outcome.reason,
    )


def _interval_to_proto(interval: Interval | None) -> comparison_pb2.DifferenceInterval | None:
    if interval is None:
        return None
    return comparison_pb2.DifferenceInterval(
        lower=interval.lower,
        upper=interval.upper,
        confidence_level=interval.confidence_level,
        method=interval.method,
    )
