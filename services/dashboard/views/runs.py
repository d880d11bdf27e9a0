"""The list of runs, with those that go on first."""

from collections.abc import Sequence
from urllib.parse import quote

from evalfleet.names import short_name
from evalfleet.pages.markup import Markup, joined, tag
from evalfleet.pages.numbers import count, money, seconds
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, badge, table
from evalfleet.results import Run, RunState

STATES = {
    RunState.SUCCEEDED: "good",
    RunState.FAILED: "bad",
    RunState.RUNNING: "open",
    RunState.PENDING: "open",
    RunState.CANCELLED: "quiet",
    RunState.UNKNOWN: "quiet",
}
_HEADERS = ("run", "model", "suite", "state", "progress", ">items", ">time", ">cost", "begun (UTC)")


def runs_sections(runs: Sequence[Run], *, is_cut: bool) -> list[Section]:
    """Lay out runs: those that go on, then the others; ``is_cut`` says that there are older ones."""
    going = [each for each in runs if not each.state.is_final]
    ended = [each for each in runs if each.state.is_final]
    note = f"The newest {count(len(runs))} runs." if is_cut else None
    live = table(None, _HEADERS, map(_row, going)) if going else tag("p", "No run is going on.", class_="note")
    sections = [Section("live", "Going on", live)]
    if ended:
        sections.append(Section("ended", "Ended", table(None, _HEADERS, map(_row, ended)), note))
    return sections


def run_link(run: Run) -> Markup:
    """Link a run to its page."""
    name = short_name(run.name)
    return tag("a", tag("bdi", name), href=f"/runs/{quote(name, safe='')}")


def _row(run: Run) -> Row:
    done = sum(each.done_count for each in run.tasks)
    total = [each.item_count for each in run.tasks]
    whole = sum(each or 0 for each in total) if None not in total else 0
    spend = run.spend.cost_micro_usd / 1e6 if run.spend else 0.0
    cells = (
        run_link(run),
        tag("bdi", short_name(run.model)),
        tag("bdi", short_name(run.suite)),
        joined(badge(run.state.value, STATES[run.state]), tag("span", f" {run.failure}") if run.failure else None),
        _progress(run, done, whole),
        count(done),
        seconds(run.seconds) if run.seconds is not None else "",
        money(spend) if spend else "",
        f"{run.create_time:%Y-%m-%d %H:%M}" if run.create_time else "",
    )
    return Row(cells, {"data_run": run.name, "data_state": run.state.value, "data_items": done})


def _progress(run: Run, done: int, whole: int) -> Markup | str:
    if run.state.is_final or not whole:
        return ""
    # Items that are drawn may be decided long before all were asked.
    return tag("progress", f"{done} of {whole}", value=done, max=whole, title=f"{done} of at most {whole} items")
