"""What the aggregation service is asked about runs beside each other."""

from collections.abc import Sequence
from typing import Final

from evalfleet.aggregation.v1 import comparison_pb2, item_analysis_pb2, regressions_pb2
from evalfleet.comparison_results import ComparedMetric, WatchedMetric
from evalfleet.names import full_name

LONGEST_CALL_SECONDS: Final = 600.0
"""Runs of a million items, or many runs, take the service a while."""


def compare_request(
    base: str,
    variant: str,
    metrics: Sequence[ComparedMetric],
    *,
    margin: float | None,
    confidence_level: float | None,
    cluster_column: str,
    allow_unpaired: bool,
) -> comparison_pb2.CompareRunsRequest:
    """Ask for a comparison of two runs, by their full names."""
    return comparison_pb2.CompareRunsRequest(
        base_run=base,
        variant_run=variant,
        metrics=[
            comparison_pb2.ComparedMetric(
                task=each.task,
                metric=each.metric,
                lower_is_better=each.lower_is_better,
                base_digest=each.base_digest,
                variant_digest=each.variant_digest,
                item_count=each.item_count,
            )
            for each in metrics
        ],
        margin=margin,
        confidence_level=confidence_level,
        cluster_column=cluster_column,
        allow_unpaired=allow_unpaired,
    )


def items_request(
    task: str,
    metric: str,
    *,
    lower_is_better: bool,
    runs: Sequence[str],
    run_limit: int,
    duplicate_similarity: float | None,
    flagged_only: bool,
) -> item_analysis_pb2.AnalyzeItemsRequest:
    """Ask for an analysis of a task's items."""
    return item_analysis_pb2.AnalyzeItemsRequest(
        task=task,
        metric=metric,
        lower_is_better=lower_is_better,
        runs=[full_name("runs", each) for each in runs],
        run_limit=run_limit,
        duplicate_similarity=duplicate_similarity,
        flagged_only=flagged_only,
    )


def regressions_request(
    names: Sequence[str],
    metrics: Sequence[WatchedMetric],
    *,
    tolerance: float | None,
    false_alarm_rate: float | None,
) -> regressions_pb2.CheckRegressionsRequest:
    """Ask for tasks that became worse, along runs by their full names."""
    return regressions_pb2.CheckRegressionsRequest(
        runs=names,
        metrics=[
            regressions_pb2.WatchedMetric(task=each.task, metric=each.metric, lower_is_better=each.lower_is_better)
            for each in metrics
        ],
        tolerance=tolerance,
        false_alarm_rate=false_alarm_rate,
    )
