"""Which items have no score, or lack a metric, and why."""

from collections.abc import Iterator

from evalfleet.pages.markup import joined, tag
from evalfleet.pages.numbers import count, share
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, badge, table
from evalfleet.reports.facts import ReportFacts, RunFacts

_NOTE = "A failed item is never left out in silence: it counts as its task says, or widens the interval."


def failures_section(facts: ReportFacts) -> Section:
    """Count failures by run, task and reason, those of single metrics behind those of whole items."""
    rows = [row for one in reversed(facts.runs) for row in _rows(one, with_label=len(facts.runs) > 1)]
    if not rows:
        return Section("failures", "Failures", tag("p", badge("no item failed", "good")))
    headers = [*(("run", "task") if len(facts.runs) > 1 else ("task",)), "reason", "what failed", ">items", ">share"]
    return Section("failures", "Failures", table(None, headers, rows), _NOTE)


def _rows(facts: RunFacts, *, with_label: bool) -> Iterator[Row]:
    label = (tag("bdi", facts.label),) if with_label else ()
    for totals in facts.snapshot.totals:
        named = tag("bdi", totals.task)
        for reason, number in sorted(totals.failures_by_reason.items()):
            cells = (
                *label,
                named,
                tag("code", reason),
                "the whole item",
                count(number),
                share(number, totals.item_count),
            )
            yield Row(cells, {"data_task": totals.task, "data_reason": reason, "data_count": number})
        if totals.truncated_count:
            part = share(totals.truncated_count, totals.item_count)
            yield Row(
                (*label, named, "prompt shortened", "nothing: it was scored", count(totals.truncated_count), part)
            )
        for estimate in facts.snapshot.estimates:
            if estimate.task != totals.task or estimate.group:
                continue
            for reason, of_either in sorted(estimate.failures_by_reason.items()):
                # An estimate's reasons are also those of items that failed as a whole, which have a row already.
                number = of_either - totals.failures_by_reason.get(reason, 0)
                if number > 0:
                    what = joined("the metric ", tag("bdi", estimate.metric))
                    part = share(number, estimate.scored_count + estimate.failed_count)
                    cells = (*label, named, tag("code", reason), what, count(number), part)
                    yield Row(cells, {"data_task": totals.task, "data_reason": reason, "data_count": number})
