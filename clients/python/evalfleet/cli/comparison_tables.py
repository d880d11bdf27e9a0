"""Tables of comparisons: two runs, items, checkpoints."""

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from evalfleet.cli.plots import difference_bar, sparkline
from evalfleet.cli.tables import number, plain_table
from evalfleet.comparison_results import (
    AnalyzedItem,
    ComparedRuns,
    Comparison,
    ItemAnalysis,
    MarginDecision,
    RegressionAlarm,
    Regressions,
    Verdict,
)
from evalfleet.names import short_name

_STYLES = {Verdict.NOT_INFERIOR: "green", Verdict.INFERIOR: "red", Verdict.UNDECIDED: "yellow"}
_LEAST_REACH = 0.02
_PROMPT_SHOWN = 60


def comparison_table(compared: ComparedRuns, margin: float | None) -> Table:
    """Lay out comparisons, one row each; the last columns are there with a margin only."""
    headers = ["task", "metric", ">base", ">variant", ">difference", ">interval", ">p", ">better", ">worse", ">items"]
    table = plain_table(*headers, "plot", *(("decision",) if margin is not None else ()))
    reach = _reach(compared.comparisons, margin)
    for each in compared.comparisons:
        better, worse = each.variant_higher_count, each.base_higher_count
        if each.lower_is_better:
            better, worse = worse, better
        is_paired = not each.unpaired_reasons
        cells: list[str | Text] = [
            each.task,
            f"{each.metric} {'↓' if each.lower_is_better else '↑'}",
            number(each.base_value),
            number(each.variant_value),
            _signed(each.difference),
            "" if each.interval is None else f"{each.interval.lower:+.3f} … {each.interval.upper:+.3f}",
            _probability(each.p_value),
            f"{better:,}" if is_paired else "",
            f"{worse:,}" if is_paired else "",
            f"{each.item_count:,}",
            _bar(each, reach, margin),
        ]
        if each.margin is not None:
            cells.append(Text(_decision(each.margin), style=_STYLES[each.margin.verdict]))
        table.add_row(*cells)
    return table


def comparison_remarks(compared: ComparedRuns) -> list[str]:
    """Say beneath the table what its numbers hide."""
    lines: list[str] = []
    levels = {each.interval.confidence_level for each in compared.comparisons if each.interval}
    for level in levels:
        lines.append(
            f"difference: variant − base; interval: {level:.0%} confidence, on more questions of this kind; "
            "better, worse: items on which the variant is"
        )
    for each in compared.comparisons:
        name = f"{each.task} {each.metric}"
        if each.unpaired_reasons:
            lines.append(f"not paired: {name}: {', '.join(each.unpaired_reasons)}; compared as two samples")
        if each.partial_draw:
            lines.append(f"no plain means: {name}: drawn with unequal probabilities, and not all items are in")
        if each.base_only_count or each.variant_only_count:
            only = f"{each.base_only_count:,} only by the base, {each.variant_only_count:,} only by the variant"
            lines.append(f"items answered: {name}: {only}")
        if each.excluded_count:
            lines.append(f"without a value in a run, left out: {name}: {each.excluded_count:,} items")
        if each.cluster_count is not None:
            lines.append(f"clusters: {name}: {each.cluster_count:,}")
    if found := [each for each in compared.comparisons if each.least_detectable is not None]:
        least = ", ".join(f"{each.task} {each.metric} {each.least_detectable:.3f}" for each in found)
        lines.append(f"true difference that four of five such comparisons find: {least}")
    several = [each for each in compared.comparisons if each.adjusted_p_value is not None]
    if len(several) > 1:
        adjusted = ", ".join(f"{each.task} {each.metric} {_probability(each.adjusted_p_value)}" for each in several)
        lines.append(f"p adjusted for {len(several)} comparisons (Holm): {adjusted}")
    return lines + [
        _margin_remark(each, each.margin)
        for each in compared.comparisons
        if each.margin is not None and (each.margin.superior or each.margin.prefix_count < each.margin.item_count)
    ]


def items_table(items: Iterable[AnalyzedItem]) -> Table:
    """Lay out items, one row each."""
    table = plain_table("item", "what it is", ">difficulty", ">discrimination", ">runs", ">alike", "end of its text")
    for each in items:
        table.add_row(
            Text(each.item),
            ", ".join(item_flags(each)),
            number(each.difficulty),
            "–" if each.discrimination is None else f"{each.discrimination:+.2f}",
            str(each.run_count),
            f"{each.similarity:.2f} (group {each.duplicate_group})" if each.duplicate_group else "",
            Text("(pruned)" if each.prompt_pruned else " ".join(each.prompt_end.split())[-_PROMPT_SHOWN:]),
        )
    return table


def item_flags(item: AnalyzedItem) -> list[str]:
    """Say what is remarkable about an item."""
    flags = {
        "suspect": item.suspect,
        "duplicate": item.duplicate_group > 0,
        "dead": item.dead,
        "saturated": item.saturated,
    }
    return [flag for flag, is_so in flags.items() if is_so]


def item_remarks(analysis: ItemAnalysis) -> list[str]:
    """Say what an analysis rests on and how many items of each kind it found."""
    lines = [
        f"{analysis.item_count:,} items, {len(analysis.runs)} runs: "
        f"{analysis.saturated_count:,} saturated (all right), {analysis.dead_count:,} dead (all wrong), "
        f"{analysis.suspect_count:,} suspect (better models do worse), {analysis.duplicate_count:,} near-duplicates"
    ]
    if len(analysis.runs) < 5:
        lines.append("fewer than five models: no item is called suspect")
    if not analysis.duplicates_searched:
        lines.append("near-duplicates were not searched for: too many items")
    lines += [f"left out: {run}: {reason}" for run, reason in analysis.skipped_runs.items()]
    lines += [
        f"asked otherwise in {run}, left out there: {count:,} items" for run, count in analysis.other_prompts.items()
    ]
    return lines


def regressions_table(found: Regressions) -> Table:
    """Lay out the watched metrics, one row each."""
    table = plain_table("task", "metric", "course", ">first", ">last", ">evidence", ">needed", "alarms")
    for series in found.series:
        alarms = [each for each in found.alarms if (each.task, each.metric) == (series.task, series.metric)]
        values = [each.value for each in series.points]
        known = [each for each in values if each is not None]
        latest = next((each for each in reversed(series.points) if each.log_evidence is not None), None)
        table.add_row(
            series.task,
            f"{series.metric} {'↓' if series.lower_is_better else '↑'}",
            sparkline(values),
            number(known[0] if known else None),
            number(known[-1] if known else None),
            "" if latest is None else f"{latest.log_evidence:.1f}",
            "" if latest is None else f"{latest.log_threshold:.1f}",
            Text(", ".join(f"#{each.run_index}" for each in alarms) or "none", style="red" if alarms else "green"),
        )
    return table


def alarm_lines(alarm: RegressionAlarm, runs: Sequence[str], names: Sequence[str]) -> list[str]:
    """Say what an alarm is about.

    Args:
        alarm: what was found.
        runs: all runs, in order.
        names: what people call them: models.
    """
    before = runs[alarm.change_index - 1] if alarm.change_index else runs[0]
    compare = f"evalfleet compare {short_name(before)} {short_name(runs[alarm.change_index])} --task {alarm.task}"
    lost = ", ".join(alarm.lost_items[:10]) + (", …" if alarm.lost_count > 10 else "")
    return [
        f"{alarm.task} {alarm.metric} is worse by {-alarm.difference:.3f} since {names[alarm.change_index]} "
        f"(#{alarm.change_index}), noticed at {names[alarm.run_index]} (#{alarm.run_index}): "
        f"{alarm.after_count} checkpoints against {alarm.before_count} before, {alarm.item_count:,} items",
        f"  at the change {alarm.lost_count:,} items became worse, {alarm.gained_count:,} better; worse: {lost}",
        f"  {compare}",
    ]


def skipped_lines(found: Regressions, names: Sequence[str]) -> list[str]:
    """Say which checkpoints could not be watched, and why."""
    return [
        f"not watched: {series.task} {series.metric} at {names[point.run_index]}: {point.skipped_reason}"
        for series in found.series
        for point in series.points
        if point.skipped_reason
    ]


def _reach(comparisons: Sequence[Comparison], margin: float | None) -> float:
    ends = [abs(end) for each in comparisons if each.interval for end in (each.interval.lower, each.interval.upper)]
    return max([_LEAST_REACH, *ends, 2 * (margin or 0.0)])


def _bar(comparison: Comparison, reach: float, margin: float | None) -> str:
    interval, value = comparison.interval, comparison.difference
    if interval is None or value is None:
        return ""
    mark = margin if margin is None or not comparison.lower_is_better else -margin
    return difference_bar(interval.lower, value, interval.upper, reach=reach, margin=mark)


def _decision(decision: MarginDecision) -> str:
    if decision.decided_after is None:
        return f"{decision.verdict.value}: {decision.undecided_reason}"
    return f"{decision.verdict.value} after {decision.decided_after:,} of {decision.item_count:,}"


def _margin_remark(comparison: Comparison, decision: MarginDecision) -> str:
    name = f"{comparison.task} {comparison.metric}"
    seen = f"{decision.prefix_count:,} of {decision.item_count:,} items in draw order"
    if decision.interval is None:
        return f"over all items: {name}: {decision.undecided_reason}; {seen}"
    superior = "; better by any amount" if decision.superior else ""
    return (
        f"over all items: {name}: difference {decision.interval.lower:+.3f} … {decision.interval.upper:+.3f} "
        f"from {seen}{superior}"
    )


def _probability(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"
