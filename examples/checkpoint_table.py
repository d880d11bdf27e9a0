"""The results of a training's checkpoints side by side, in plain text."""

from collections.abc import Sequence

from evalfleet.results import Estimate, Interval, Suite
from evalfleet.training import CheckpointResult

_LABEL_WIDTH = 36
_CELL_WIDTH = 20


def print_checkpoint_table(results: Sequence[CheckpointResult], suite: Suite) -> None:
    """Print a column a checkpoint: each task's metrics with their intervals, what was not judged, and the cost."""
    ordered = sorted(results, key=lambda each: each.step)
    names = [f"step {each.step}" for each in ordered]
    print("".join([" " * _LABEL_WIDTH, *(f"{name:>{_CELL_WIDTH}}" for name in names)]))
    print("─" * (_LABEL_WIDTH + _CELL_WIDTH * len(ordered)))
    for task in suite.tasks:
        metrics = list(dict.fromkeys(e.metric for r in ordered for e in r.estimates if e.task == task.name))
        for metric in sorted(metrics, key=lambda each: each != task.primary_metric):
            arrow = ("↑" if task.higher_is_better else "↓") if metric == task.primary_metric else " "
            found = [_estimate(each, task.name, metric) for each in ordered]
            _line(f"{task.name} {metric} {arrow}", [_cell(each) for each in found])
    _line("mean of the primary metrics", [f"{score(each, suite):.3f}" for each in ordered])
    _line("items that failed", [str(sum(t.failed_count for t in each.totals)) for each in ordered])
    _line("tokens computed", [f"{each.computed_tokens:,}" for each in ordered])
    _line("engine seconds", [f"{sum(t.engine_seconds for t in each.totals):.2f}" for each in ordered])
    _line("cost, USD", [f"{each.cost_usd:.6f}" for each in ordered])
    print("in brackets: 95% intervals; each primary metric in the mean turned so that more is better;")
    print("cost: at 1 USD for an hour of the engines")


def score(result: CheckpointResult, suite: Suite) -> float:
    """Return the mean over the suite's tasks of the primary metric, as 1 - value where less is better."""
    oriented = []
    for task in suite.tasks:
        found = _estimate(result, task.name, task.primary_metric)
        value = float("nan") if found is None or found.value is None else found.value
        oriented.append(value if task.higher_is_better else 1 - value)
    return sum(oriented) / len(oriented)


def _estimate(result: CheckpointResult, task: str, metric: str) -> Estimate | None:
    wanted = (task, metric, "")
    return next((each for each in result.estimates if (each.task, each.metric, each.group) == wanted), None)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    interval: Interval | None = estimate.interval
    return f"{estimate.value:.2f} " + (f"[{interval.lower:.2f}, {interval.upper:.2f}]" if interval else "")


def _line(label: str, cells: Sequence[str]) -> None:
    print("".join([f"{label:<{_LABEL_WIDTH}}", *(f"{cell:>{_CELL_WIDTH}}" for cell in cells)]))
