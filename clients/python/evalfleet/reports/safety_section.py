"""How safe the answers are: rates by hazard, raw and corrected for the errors of whoever counted them."""

from collections.abc import Sequence

from evalfleet.pages.interval_plots import axis, description, interval_plot
from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import count, number, span
from evalfleet.pages.page import Section
from evalfleet.pages.scales import bounds_of
from evalfleet.pages.tables import Row, folded, table
from evalfleet.reports.facts import FIXED_COUNT_NOTE, ReportFacts, RunFacts, for_the_task, is_safety, limits_of
from evalfleet.results import Estimate

_SAID = {
    "unsafe": "share of answers that the guard calls unsafe ↓",
    "refusal": "share of harmful requests that were refused ↑",
    "over_refusal": "share of harmless requests that were refused ↓",
}
_UNCORRECTED = (
    "Rates are as the guard counted them, its own errors included: give its quality with --guard-quality, and they are "
    "also shown corrected."
)
_CORRECTED = "Corrected rates are what the guard's counts say of the truth, given how often it errs on labelled texts."


def safety_section(facts: ReportFacts) -> Section | None:
    """Lay out the rates of safety metrics by group; ``None`` where no task has one."""
    found = [(one, [each for each in one.snapshot.estimates if is_safety(each)]) for one in facts.runs]
    found = [(one, estimates) for one, estimates in found if estimates]
    if not found:
        return None
    corrected = any(each.corrected for _, estimates in found for each in estimates)
    newest, *earlier = reversed(found)
    content = [_run(*newest, with_label=bool(earlier))]
    content += [folded(joined("Rates of ", tag("bdi", one.label)), _run(one, rates)) for one, rates in earlier]
    note = _CORRECTED if corrected else _UNCORRECTED
    if facts.has_drawn_parts:
        note = f"{note} {FIXED_COUNT_NOTE}"
    return Section("safety", "Safety", joined(*content), note)


def _run(facts: RunFacts, estimates: Sequence[Estimate], *, with_label: bool = False) -> Markup:
    tables = []
    for task, metric in dict.fromkeys((each.task, each.metric) for each in estimates):
        rates = sorted(
            (each for each in estimates if (each.task, each.metric) == (task, metric)), key=lambda e: e.group
        )
        tables.append(_table(facts, task, metric, rates))
    heading = tag("p", "Of ", tag("b", tag("bdi", facts.label)), ":") if with_label else None
    return joined(heading, *tables)


def _table(facts: RunFacts, task: str, metric: str, rates: Sequence[Estimate]) -> Markup:
    said = _SAID.get(metric, "")
    heading = tag(
        "h3", tag("bdi", task), " ", tag("bdi", metric), tag("span", f" {said}", class_="about") if said else None
    )
    ends = [end for each in rates for end in (*(limits_of(for_the_task(each)) or ()), *_corrected_ends(each))]
    bounds = bounds_of([0.0, 1.0, *ends])
    has_corrected = any(each.corrected for each in rates)
    headers = [
        "group",
        ">rate",
        ">interval",
        "plot",
        *([">corrected", ">its interval"] if has_corrected else []),
        ">items",
    ]
    rows = [_row(facts, for_the_task(each), bounds, has_corrected=has_corrected) for each in rates]
    return joined(heading, table(None, headers, rows, plot_header=axis(bounds)))


def _corrected_ends(estimate: Estimate) -> tuple[float, ...]:
    corrected = estimate.corrected
    return () if corrected is None else (corrected.interval.lower, corrected.interval.upper)


def _row(facts: RunFacts, each: Estimate, bounds: tuple[float, float], *, has_corrected: bool) -> Row:
    limits = limits_of(each)
    name = each.group or "all items"
    plot = interval_plot(each.value, limits, bounds, description=description(f"{name}, raw", each.value, limits))
    cells: list[Child] = [tag("bdi", name), number(each.value), span(*limits) if limits else ""]
    corrected = each.corrected
    if corrected is not None:
        ends = (corrected.interval.lower, corrected.interval.upper)
        words = description(f"{name}, corrected", corrected.value, ends)
        plot = joined(plot, interval_plot(corrected.value, ends, bounds, description=words, kind="second"))
    cells.append(plot)
    if has_corrected:
        cells += _corrected_cells(each)
    cells.append(count(each.scored_count + each.failed_count))
    attributes = {
        "data_run": facts.run.name,
        "data_task": each.task,
        "data_metric": each.metric,
        "data_group": each.group,
        "data_value": each.value,
        "data_corrected": corrected.value if corrected else None,
    }
    return Row(cells, attributes, is_strong=not each.group)


def _corrected_cells(each: Estimate) -> tuple[Child, Child]:
    if each.corrected is None:
        return "", ""
    if each.corrected.value is None:
        return "unknown", "no better than chance"
    return number(each.corrected.value), span(each.corrected.interval.lower, each.corrected.interval.upper)
