"""A report as one HTML file, decisions first."""

from evalfleet.names import short_name
from evalfleet.pages.markup import Markup, joined, tag
from evalfleet.pages.numbers import count, seconds
from evalfleet.pages.page import Section, page
from evalfleet.reports.cost_section import cost_section
from evalfleet.reports.decisions_section import decisions_section
from evalfleet.reports.estimates_section import estimates_section
from evalfleet.reports.facts import ReportFacts, RunFacts
from evalfleet.reports.failures_section import failures_section
from evalfleet.reports.items_section import items_section
from evalfleet.reports.safety_section import safety_section
from evalfleet.reports.trends_section import trends_section

_SECTIONS = (
    decisions_section,
    estimates_section,
    safety_section,
    trends_section,
    cost_section,
    failures_section,
    items_section,
)


def report_page(facts: ReportFacts) -> str:
    """Write the report: one self-contained HTML file that works without a network and without scripts."""
    suites = " and ".join(dict.fromkeys(short_name(each.run.suite) for each in facts.runs))
    what = facts.newest.label if len(facts.runs) == 1 else f"{len(facts.runs)} runs up to {facts.newest.label}"
    title = f"{what} on {suites}"
    header = joined(
        tag("p", "EvalFleet report", class_="kicker"),
        tag("h1", title),
        tag("ul", *map(_run, facts.runs), class_="runs"),
    )
    made = f"Made {facts.created:%Y-%m-%d %H:%M} UTC from the fleet's own figures. This file needs no network."
    return page(f"{title} – EvalFleet", header, report_sections(facts), footer=made)


def report_sections(facts: ReportFacts) -> list[Section]:
    """Lay out all that the facts have something to say about."""
    return [section for make in _SECTIONS if (section := make(facts)) is not None]


def _run(facts: RunFacts) -> Markup:
    run = facts.run
    done = sum(each.item_count for each in facts.snapshot.totals)
    told = [
        f"run {short_name(run.name)}",
        run.state.value,
        f"{run.create_time:%Y-%m-%d %H:%M} UTC" if run.create_time else "",
        f"{count(done)} items",
        seconds(run.seconds) if run.seconds is not None else "",
        f"model {run.model_digest[:12]}" if run.model_digest else "",
    ]
    shown = [tag("span", each) for each in told if each]
    return tag("li", tag("b", tag("bdi", facts.label)), *shown, data_run=run.name)
