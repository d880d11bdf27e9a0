"""How each task went along the checkpoints."""

from collections.abc import Iterator

from evalfleet.goals import Gate
from evalfleet.pages.markup import Markup, joined, tag
from evalfleet.pages.numbers import number, span
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, folded, table
from evalfleet.pages.trend_plots import Point, Threshold, trend_plot
from evalfleet.reports.facts import ReportFacts, RunFacts, is_safety, limits_of
from evalfleet.results import Estimate


def trends_section(facts: ReportFacts) -> Section | None:
    """Draw each task's primary metric, and its safety metrics, over the runs; ``None`` for one run alone."""
    if len(facts.runs) < 2:
        return None
    series = list(series_of(facts))
    figures = [_figure(facts, task, metric, points) for task, metric, points in series if _is_line(points)]
    numbers = folded("The numbers of these lines", _table(facts, series)) if series else Markup()
    note = "In the order in which the runs were named; each drawing has a scale of its own."
    return Section("trends", "Trends", joined(tag("div", *figures, class_="trends"), numbers), note)


def series_of(facts: ReportFacts) -> Iterator[tuple[str, str, list[Point]]]:
    """Yield task, metric and points of every line: the primary metrics, and those of safety."""
    for task in facts.tasks:
        described = next((found for one in reversed(facts.runs) if (found := one.task(task))), None)
        primary = next((each.metric for one in reversed(facts.runs) if (each := one.primary(task))), "")
        first = described.primary_metric if described else primary
        estimates = [each for one in facts.runs for each in one.estimates(task) if not each.group]
        metrics = dict.fromkeys([first, *(each.metric for each in estimates if is_safety(each))])
        for metric in metrics:
            points = [_point(one, task, metric, at) for one, at in zip(facts.runs, facts.places(), strict=True)]
            if any(each.value is not None for each in points):
                yield task, metric, points


def _point(facts: RunFacts, task: str, metric: str, at: float) -> Point:
    found: Estimate | None = next(
        (each for each in facts.estimates(task) if each.metric == metric and not each.group), None
    )
    return Point(at, facts.label, found.value if found else None, limits_of(found) if found else None)


def _is_line(points: list[Point]) -> bool:
    return sum(each.value is not None for each in points) > 1


def gates_of(facts: ReportFacts, task: str, metric: str) -> list[Gate]:
    """Return the gates that the runs had on a metric, each once."""
    found = [gate for one in facts.runs for gate in one.run.gates if gate.task == task and gate.metric in ("", metric)]
    return list(dict.fromkeys(found))


def _figure(facts: ReportFacts, task: str, metric: str, points: list[Point]) -> Markup:
    thresholds = [
        Threshold(each.threshold, f"{'at least' if each.at_least else 'at most'} {each.threshold:g}")
        for each in gates_of(facts, task, metric)
    ]
    plot = trend_plot(f"{task} {metric} over the checkpoints", points, thresholds)
    caption = tag("figcaption", tag("bdi", task), tag("span", tag("bdi", metric), class_="about"))
    return tag("figure", caption, plot, data_task=task, data_metric=metric)


def _table(facts: ReportFacts, series: list[tuple[str, str, list[Point]]]) -> Markup:
    headers = ["task and metric", *(f">{each.label}" for each in facts.runs)]
    rows = [
        Row([joined(tag("bdi", task), " ", tag("bdi", metric)), *(_cell(point) for point in points)])
        for task, metric, points in series
    ]
    return table(None, headers, rows)


def _cell(point: Point) -> str:
    limits = f" ({span(*point.limits)})" if point.limits else ""
    return f"{number(point.value)}{limits}"
