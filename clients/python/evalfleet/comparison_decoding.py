"""Translate what the aggregation service answers about comparisons."""

from collections.abc import Iterable, Sequence

from evalfleet.aggregation.v1 import comparison_pb2, item_analysis_pb2, regressions_pb2
from evalfleet.comparison_results import (
    AnalyzedItem,
    CheckpointPoint,
    ComparedRuns,
    Comparison,
    ItemAnalysis,
    MarginDecision,
    RegressionAlarm,
    Regressions,
    Verdict,
    WatchedSeries,
)
from evalfleet.results import Interval

# What this version does not know is not decided.
_VERDICTS = {
    comparison_pb2.COMPARISON_DECISION_NOT_INFERIOR: Verdict.NOT_INFERIOR,
    comparison_pb2.COMPARISON_DECISION_INFERIOR: Verdict.INFERIOR,
}


def compared_runs(
    base_run: str, variant_run: str, message: comparison_pb2.CompareRunsResponse, *, has_margin: bool
) -> ComparedRuns:
    """Translate everything that was compared."""
    return ComparedRuns(
        base_run=base_run,
        variant_run=variant_run,
        comparisons=tuple(_comparison(each) for each in message.comparisons),
        verdict=_VERDICTS.get(message.decision, Verdict.UNDECIDED) if has_margin else None,
    )


def item_analysis(task: str, metric: str, messages: Iterable[item_analysis_pb2.AnalyzeItemsResponse]) -> ItemAnalysis:
    """Translate a stream of items that begins with their summary."""
    summary = item_analysis_pb2.ItemAnalysisSummary()
    items: list[AnalyzedItem] = []
    for message in messages:
        if message.HasField("summary"):
            summary = message.summary
        items.extend(_item(each) for each in message.items)
    return ItemAnalysis(
        task=task,
        metric=metric,
        runs=tuple(each.run for each in summary.runs),
        skipped_runs={each.run: each.reason for each in summary.skipped_runs},
        other_prompts={each.run: each.other_prompt_count for each in summary.runs if each.other_prompt_count},
        item_count=summary.item_count,
        saturated_count=summary.saturated_count,
        dead_count=summary.dead_count,
        suspect_count=summary.suspect_count,
        duplicate_count=summary.duplicate_count,
        duplicates_searched=summary.duplicates_searched,
        items=tuple(items),
    )


def regressions(runs: Sequence[str], message: regressions_pb2.CheckRegressionsResponse) -> Regressions:
    """Translate what was found along runs."""
    return Regressions(
        runs=tuple(runs),
        alarms=tuple(_alarm(each) for each in message.alarms),
        series=tuple(
            WatchedSeries(each.task, each.metric, each.lower_is_better, tuple(_point(point) for point in each.points))
            for each in message.series
        ),
    )


def _comparison(message: comparison_pb2.Comparison) -> Comparison:
    return Comparison(
        task=message.task,
        metric=message.metric,
        lower_is_better=message.lower_is_better,
        unpaired_reasons=tuple(message.unpaired_reasons),
        item_count=message.item_count,
        base_only_count=message.base_only_count,
        variant_only_count=message.variant_only_count,
        excluded_count=message.excluded_count,
        base_value=message.base_value if message.HasField("base_value") else None,
        variant_value=message.variant_value if message.HasField("variant_value") else None,
        difference=message.difference if message.HasField("difference") else None,
        interval=_interval(message.interval) if message.HasField("interval") else None,
        standard_error=message.standard_error if message.HasField("standard_error") else None,
        cluster_count=message.cluster_count if message.HasField("cluster_count") else None,
        p_value=message.p_value if message.HasField("p_value") else None,
        p_value_method=message.p_value_method,
        adjusted_p_value=message.adjusted_p_value if message.HasField("adjusted_p_value") else None,
        effect_size=message.effect_size if message.HasField("effect_size") else None,
        least_detectable=message.least_detectable if message.HasField("least_detectable") else None,
        variant_higher_count=message.variant_higher_count,
        base_higher_count=message.base_higher_count,
        margin=_margin(message.margin_decision) if message.HasField("margin_decision") else None,
        partial_draw=message.partial_draw,
    )


def _margin(message: comparison_pb2.MarginDecision) -> MarginDecision:
    return MarginDecision(
        verdict=_VERDICTS.get(message.decision, Verdict.UNDECIDED),
        decided_after=message.decided_after if message.HasField("decided_after") else None,
        prefix_count=message.prefix_count,
        item_count=message.item_count,
        superior=message.superior,
        interval=_interval(message.interval) if message.HasField("interval") else None,
        undecided_reason=message.undecided_reason,
    )


def _interval(message: comparison_pb2.DifferenceInterval) -> Interval:
    return Interval(message.lower, message.upper, message.confidence_level, message.method)


def _item(message: item_analysis_pb2.AnalyzedItem) -> AnalyzedItem:
    return AnalyzedItem(
        item=message.item,
        run_count=message.run_count,
        difficulty=message.difficulty,
        discrimination=message.discrimination if message.HasField("discrimination") else None,
        saturated=message.saturated,
        dead=message.dead,
        suspect=message.suspect,
        duplicate_group=message.duplicate_group,
        similarity=message.similarity,
        prompt_end=message.prompt_end,
        prompt_pruned=message.prompt_pruned,
    )


def _alarm(message: regressions_pb2.RegressionAlarm) -> RegressionAlarm:
    return RegressionAlarm(
        task=message.task,
        metric=message.metric,
        run=message.run,
        run_index=message.run_index,
        change_index=message.change_index,
        difference=message.difference,
        before_count=message.before_count,
        after_count=message.after_count,
        item_count=message.item_count,
        log_evidence=message.log_evidence,
        log_threshold=message.log_threshold,
        lost_items=tuple(message.lost_items),
        lost_count=message.lost_count,
        gained_count=message.gained_count,
    )


def _point(message: regressions_pb2.CheckpointPoint) -> CheckpointPoint:
    return CheckpointPoint(
        run_index=message.run_index,
        value=message.value if message.HasField("value") else None,
        item_count=message.item_count,
        lost_count=message.lost_count,
        gained_count=message.gained_count,
        log_evidence=message.log_evidence if message.HasField("log_evidence") else None,
        log_threshold=message.log_threshold if message.HasField("log_threshold") else None,
        skipped_reason=message.skipped_reason,
    )
