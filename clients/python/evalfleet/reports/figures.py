"""The report's numbers as PNG and SVG, for slides and papers; needs the extra ``plots`` (matplotlib)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evalfleet.comparison_results import ComparedRuns, Comparison
from evalfleet.extras import needed
from evalfleet.pages.scales import bounds_of
from evalfleet.pages.trend_plots import Point
from evalfleet.reports.cost_section import cost_of
from evalfleet.reports.facts import ReportFacts, for_the_task, is_safety, limits_of
from evalfleet.reports.trends_section import gates_of, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_BLUE, _SKY, _GREEN, _GREY, _MARK = "#0072B2", "#56B4E9", "#009E73", "#9aa3ad", "#D55E00"
_INCHES_A_ROW = 0.36
_Range = tuple[str, float | None, tuple[float, float] | None]


def write_figures(facts: ReportFacts, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every figure in every format, and return the files.

    Raises:
        MissingExtraError: matplotlib is not there.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in _figures(facts):
        for each in formats:
            written.append(folder / f"{name}.{each}")
            save(figure, written[-1])
    return written


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's name ends with; the same figure gives the same bytes."""
    import matplotlib

    # Text stays text; ids and dates do not change from one writing to the next.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evalfleet"}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, bbox_inches="tight", dpi=160, metadata=metadata)


def difference_figure(compared: ComparedRuns, base: str, variant: str, margin: float | None = None) -> Figure:
    """Draw the paired difference of each metric with its interval; right of the line the variant is higher."""
    rows: list[_Range] = [
        (_difference_label(each), each.difference, _difference_limits(each)) for each in compared.comparisons
    ]
    ends = [end for _, value, limits in rows for end in (*(limits or ()), value or 0.0)]
    reach = max([abs(each) for each in ends] + [margin or 0.0, 0.02]) * 1.1
    figure, axes = _axes(len(rows))
    _draw_ranges(axes, rows, (-reach, reach))
    axes.axvline(0, color="black", linewidth=0.9)
    if margin is not None:
        for each in compared.comparisons:
            at = margin if each.lower_is_better else -margin
            axes.axvline(at, color=_MARK, linestyle="--", linewidth=1)
    axes.set_xlabel(f"{variant} − {base}")
    return figure


def _figures(facts: ReportFacts) -> Iterator[tuple[str, Figure]]:
    for one in facts.runs:
        suffix = f"-{_file_name(one.label)}" if len(facts.runs) > 1 else ""
        rows: list[_Range] = [
            (f"{task.task}  {each.metric}", each.value, limits_of(each))
            for task in one.run.tasks
            if (each := one.primary(task.task))
        ]
        if rows:
            yield f"estimates{suffix}", _range_figure(rows, "primary metric of each task")
        rates: list[_Range] = [
            (f"{each.task}  {each.metric}  {each.group or 'all items'}", each.value, limits_of(each))
            for each in map(for_the_task, one.snapshot.estimates)
            if is_safety(each)
        ]
        if rates:
            yield f"safety{suffix}", _range_figure(rates, "rate")
    for task, metric, points in series_of(facts) if len(facts.runs) > 1 else ():
        yield f"trend-{_file_name(task)}-{_file_name(metric)}", _trend_figure(facts, task, metric, points)
    yield "cost", _cost_figure(facts)


def _file_name(text: str) -> str:
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in text).strip(".")[:80] or "-"


def _difference_label(each: Comparison) -> str:
    return f"{each.task}  {each.metric} {'↓' if each.lower_is_better else '↑'}"


def _difference_limits(each: Comparison) -> tuple[float, float] | None:
    return (each.interval.lower, each.interval.upper) if each.interval else None


def _axes(row_count: int, *, width: float = 7.0, height: float | None = None) -> tuple[Figure, Axes]:
    needed("matplotlib", extra="plots")
    from matplotlib.figure import Figure

    # Not pyplot, which keeps figures alive and may want a display.
    figure = Figure(figsize=(width, height or 0.9 + _INCHES_A_ROW * max(1, row_count)))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def _range_figure(rows: Sequence[_Range], label: str) -> Figure:
    figure, axes = _axes(len(rows))
    _draw_ranges(axes, rows, bounds_of([end for _, value, limits in rows for end in (*(limits or ()), value or 0.0)]))
    axes.set_xlabel(label)
    return figure


def _draw_ranges(axes: Axes, rows: Sequence[_Range], bounds: tuple[float, float]) -> None:
    for place, (_, value, limits) in enumerate(rows):
        if limits:
            axes.plot(
                limits, [place, place], color=_BLUE, linewidth=1.8, solid_capstyle="butt", marker="|", markersize=8
            )
        if value is not None:
            axes.plot([value], [place], marker="o", color=_BLUE, markersize=5.5)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*bounds)
    axes.grid(axis="x", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _trend_figure(facts: ReportFacts, task: str, metric: str, points: Sequence[Point]) -> Figure:
    figure, axes = _axes(1, width=5.2, height=3.2)
    known = [(each.at, each.value) for each in points if each.value is not None]
    limited = [(each.at, *each.limits) for each in points if each.limits]
    if limited:
        places, lower, upper = zip(*limited, strict=True)
        axes.fill_between(places, lower, upper, color=_BLUE, alpha=0.18, linewidth=0)
    axes.plot(*zip(*known, strict=True), color=_BLUE, marker="o", linewidth=1.8, markersize=5)
    for gate in gates_of(facts, task, metric):
        axes.axhline(gate.threshold, color=_MARK, linestyle="--", linewidth=1)
    axes.set_xticks([each.at for each in points], [each.label for each in points], rotation=30, ha="right")
    axes.set_title(f"{task}  {metric}", fontsize=10, loc="left")
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def _cost_figure(facts: ReportFacts) -> Figure:
    costs = [cost_of(each) for each in facts.runs]
    parts = (
        ("computed", [each.computed_tokens for each in costs], _BLUE),
        ("saved by shared prefixes", [each.prefix_saved_tokens for each in costs], _SKY),
        ("saved by the cache of answers", [each.cache_saved_tokens for each in costs], _GREEN),
        ("not asked, about", [each.unasked_tokens for each in costs], _GREY),
    )
    figure, axes = _axes(len(costs), height=1.5 + 0.5 * len(costs))
    starts = [0] * len(costs)
    for label, amounts, colour in parts:
        axes.barh(range(len(costs)), amounts, left=starts, color=colour, label=label, edgecolor="white", height=0.6)
        starts = [start + amount for start, amount in zip(starts, amounts, strict=True)]
    axes.set_yticks(range(len(costs)), [each.label for each in facts.runs])
    axes.invert_yaxis()
    axes.set_xlabel("tokens")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.35 if len(costs) == 1 else -0.2), ncols=2, fontsize=8, frameon=False
    )
    return figure
