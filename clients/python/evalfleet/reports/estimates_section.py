"""What was measured: each metric of each task with its interval."""

from collections.abc import Iterator, Sequence

from evalfleet.pages.interval_plots import axis, description, interval_plot
from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import count, number, span
from evalfleet.pages.page import Section
from evalfleet.pages.scales import bounds_of
from evalfleet.pages.tables import Row, folded, table
from evalfleet.reports.facts import FIXED_COUNT_NOTE, ReportFacts, RunFacts, levels_of, limits_of
from evalfleet.results import Estimate, Interval, PassRates, SetMeasure


def estimates_section(facts: ReportFacts) -> Section:
    """Lay out the estimates, a table a task: the primary metric for every run, the rest folded away."""
    levels = levels_of(each for one in facts.runs for each in one.snapshot.estimates)
    level = " and ".join(f"{each:.4g}" for each in sorted(levels))
    note = (
        f"Intervals hold with a confidence of {level}. They are about more questions of this kind, or about the whole "
        "task where a part of its items was drawn." + (f" {FIXED_COUNT_NOTE}" if facts.has_drawn_parts else "")
        if levels
        else None
    )
    content = joined(*(_task(name, facts) for name in facts.tasks))
    return Section("estimates", "Estimates", content, note)


def _task(name: str, facts: ReportFacts) -> Markup:
    found = [(one, one.estimates(name)) for one in facts.runs]
    described = next((task for one in reversed(facts.runs) if (task := one.task(name))), None)
    about = tag("span", f" {described.description}", class_="about") if described and described.description else None
    heading = tag("h3", tag("bdi", name), about)
    if not any(estimates for _, estimates in found):
        return joined(heading, tag("p", "There are no estimates: no item of it was scored.", class_="note"))
    bounds = bounds_of(_reach(each for _, estimates in found for each in estimates))
    primary = described.primary_metric if described else found[-1][1][0].metric if found[-1][1] else ""
    arrow = "" if described is None else " ↑ more is better" if described.higher_is_better else " ↓ less is better"
    caption = joined(tag("bdi", primary), arrow)
    main = [
        _row(one.label if len(facts.runs) > 1 else each.metric, each, one, bounds, is_primary=True)
        for one, estimates in found
        for each in estimates
        if each.metric == primary and not each.group
    ]
    told = described.comparable_to if described else ""
    comparable = tag("p", f"Comparable to: {told}", class_="small") if told else None
    return joined(heading, comparable, _table(caption, main, bounds), *_further(name, facts, primary, bounds))


def _table(caption: Child, rows: Sequence[Row], bounds: tuple[float, float]) -> Markup:
    if not rows:
        return Markup()
    headers = ("", ">estimate", ">interval", "plot", ">items", ">failed")
    return table(caption, headers, rows, plot_header=axis(bounds))


def _reach(estimates: Iterator[Estimate]) -> Iterator[float]:
    for each in estimates:
        if each.value is not None:
            yield each.value
        yield from limits_of(each) or ()


def _row(
    label: str,
    each: Estimate,
    facts: RunFacts,
    bounds: tuple[float, float],
    *,
    is_primary: bool = False,
    arrow: str = "",
) -> Row:
    limits = limits_of(each)
    name = joined(
        tag("bdi", label), arrow, tag("span", " · ", tag("bdi", each.group), class_="note") if each.group else None
    )
    return Row(
        (
            name,
            number(each.value),
            span(*limits) if limits else "",
            interval_plot(
                each.value, limits, bounds, description=description(f"{label} {each.group}", each.value, limits)
            ),
            count(each.scored_count + each.failed_count),
            count(each.failed_count),
        ),
        {
            "data_run": facts.run.name,
            "data_task": each.task,
            "data_metric": each.metric,
            "data_group": each.group,
            "data_value": each.value,
            "data_lower": limits[0] if limits else None,
            "data_upper": limits[1] if limits else None,
        },
        is_strong=is_primary,
    )


def _further(name: str, facts: ReportFacts, primary: str, bounds: tuple[float, float]) -> Iterator[Markup]:
    for one in reversed(facts.runs):
        rows: list[Row] = []
        for each in one.estimates(name):
            if each.metric != primary or each.group:
                described = one.task(name)
                lower = described.lower_is_better(each.metric) if described else None
                arrow = "" if lower is None else " ↓" if lower else " ↑"
                rows.append(_row(each.metric, each, one, bounds, arrow=arrow))
            rows += [
                _pass_row(each, rates, bounds, kind) for rates in each.passes if rates.k > 1 for kind in ("@", "^")
            ]
        rows += [_measure_row(each, bounds) for each in one.snapshot.set_measures if each.task == name]
        if rows:
            of = joined(" of ", tag("bdi", one.label)) if len(facts.runs) > 1 else None
            yield folded(
                joined(f"{len(rows)} further figure{'s' if len(rows) > 1 else ''}", of), _table(None, rows, bounds)
            )


def _pass_row(estimate: Estimate, rates: PassRates, bounds: tuple[float, float], kind: str) -> Row:
    is_any = kind == "@"
    value, interval = (rates.any_of, rates.any_interval) if is_any else (rates.all_of, rates.all_interval)
    return _figure_row(f"pass{kind}{rates.k} of {estimate.metric}", value, interval, rates.item_count, bounds)


def _measure_row(each: SetMeasure, bounds: tuple[float, float]) -> Row:
    name = f"{each.name} · {each.group}" if each.group else each.name
    return _figure_row(name, each.value, each.interval, each.item_count, bounds)


def _figure_row(
    name: str, value: float, interval: Interval | None, item_count: int, bounds: tuple[float, float]
) -> Row:
    limits = (interval.lower, interval.upper) if interval else None
    fits = all(bounds[0] <= each <= bounds[1] for each in (value, *(limits or ())))
    plot = interval_plot(value, limits, bounds, description=description(name, value, limits)) if fits else None
    return Row(
        (name, number(value), span(*limits) if limits else "", plot, count(item_count), ""), {"data_value": value}
    )
