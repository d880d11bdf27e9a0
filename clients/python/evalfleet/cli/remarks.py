"""What stands beneath the table of a run's results: what its numbers hide."""

from collections.abc import Sequence

from evalfleet.calibration.agreement import wilson_interval
from evalfleet.cli.tables import number
from evalfleet.results import Estimate, RunSnapshot, TaskTotals


def remarks(snapshot: RunSnapshot) -> list[str]:
    """Say beneath the table what its numbers hide: the confidence level, failures by reason, shortened prompts."""
    levels = {each.interval.confidence_level for each in snapshot.estimates if each.interval}
    lines = [
        f"intervals: {level:.0%} confidence; tokens: model, judges, guards; computed: of those; seconds: of the engine"
        for level in levels
    ]
    lines += [_corrected(each) for each in snapshot.estimates if each.corrected is not None]
    lines += _savings(snapshot.totals)
    for totals in snapshot.totals:
        for reason, count in sorted(totals.failures_by_reason.items()):
            lines.append(f"failed: {count} × {reason} in {totals.task}")
        lines += _metric_failures(totals, [each for each in snapshot.estimates if each.task == totals.task])
        if totals.truncated_count:
            lines.append(f"shortened to fit the context: {totals.truncated_count} prompts in {totals.task}")
    return lines


def _metric_failures(totals: TaskTotals, estimates: Sequence[Estimate]) -> list[str]:
    """Say which metrics failed where their items did not, and what it means that nobody knows their values."""
    found: dict[tuple[str, int], list[str]] = {}
    unjudged: dict[tuple[int, int], list[str]] = {}
    for each in estimates:
        if each.group:
            continue
        for reason, count in each.failures_by_reason.items():
            if count > totals.failures_by_reason.get(reason, 0):
                found.setdefault((reason, count), []).append(each.metric)
        if each.unjudged_count:
            count = each.scored_count + each.failed_count
            unjudged.setdefault((each.unjudged_count, count), []).append(each.metric)
    lines = [
        f"failed: {count} × {reason} in {totals.task}: {', '.join(metrics)}"
        for (reason, count), metrics in sorted(found.items())
    ]
    return lines + [
        f"not judged: {_share(*counts)} in {totals.task}: {', '.join(metrics)}; estimates are of the others, intervals "
        "hold whatever these are from 0 to 1"
        for counts, metrics in sorted(unjudged.items())
    ]


def _share(count: int, total: int) -> str:
    """Write how often a judge gives no verdict, with a 95 % interval."""
    lower, upper = wilson_interval(count, total)
    return f"{count} of {total} items ({count / total:.1%}, {lower:.1%} … {upper:.1%})"


def _corrected(estimate: Estimate) -> str:
    """Say what a rate would be without its guard's errors."""
    name = " · ".join(each for each in (f"{estimate.task} {estimate.metric}", estimate.group) if each)
    corrected = estimate.corrected
    assert corrected is not None
    if corrected.value is None:
        return f"corrected for the guard's errors: {name}: unknown, this guard does no better than chance"
    limits = corrected.interval
    return (
        f"corrected for the guard's errors: {name} {number(corrected.value)}, "
        f"{number(limits.lower)} … {number(limits.upper)} (counted: {number(estimate.value_scored_only)})"
    )


def _savings(totals: Sequence[TaskTotals]) -> list[str]:
    """Say how many tokens were computed, what the caches saved, and the price if there is one."""
    computed = sum(each.computed_tokens for each in totals)
    prefix = sum(each.prefix_saved_tokens for each in totals)
    cache = sum(each.cache_saved_tokens for each in totals)
    cost = sum(each.cost_usd for each in totals)
    line = f"tokens computed: {computed:,}; saved by shared prefixes: {prefix:,}, by the cache of answers: {cache:,}"
    return [line + (f"; cost: ${cost:,.6f}" if cost else "")] if computed + prefix + cache else []
