"""The list of runs, with those that go on first."""

from collections.abc import Sequence
from urllib.parse import quote

from evalfleet.names import short_name
from evalfleet.pages.markup import Attribute, Markup, joined, tag
from evalfleet.pages.numbers import count, seconds
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
MOST_ENDED = 200
_ENDED = ("run", "model", "suite", "state", ">items", ">time", "made (UTC)")
_GOING_ON = ("run", "model", "suite", "state", "progress", ">items", "made (UTC)")


def runs_sections(runs: Sequence[Run]) -> list[Section]:
    """Lay out runs: those that go on, then the newest of the others."""
    going = [each for each in runs if not each.state.is_final]
    ended = [each for each in runs if each.state.is_final][:MOST_ENDED]
    note = f"The newest {count(MOST_ENDED)}." if len(ended) == MOST_ENDED else None
    live = table(None, _GOING_ON, map(_going_on, going)) if going else tag("p", "No run is going on.", class_="note")
    sections = [Section("live", "Going on", live)]
    if ended:
        sections.append(Section("ended", "Ended", table(None, _ENDED, map(_ended, ended)), note))
    return sections


def run_link(run: Run) -> Markup:
    """Link a run to its page."""
    name = short_name(run.name)
    return tag("a", tag("bdi", name), href=f"/runs/{quote(name, safe='')}")


def _going_on(run: Run) -> Row:
    done = _done(run)
    total = [each.item_count for each in run.tasks]
    whole = sum(each or 0 for each in total) if None not in total else 0
    return Row((*_first_cells(run), _progress(done, whole), count(done), _made(run)), _attributes(run))


def _ended(run: Run) -> Row:
    time = seconds(run.seconds) if run.seconds is not None else ""
    return Row((*_first_cells(run), count(_done(run)), time, _made(run)), _attributes(run))


def _first_cells(run: Run) -> tuple[Markup, ...]:
    state = joined(badge(run.state.value, STATES[run.state]), tag("span", f" {run.failure}") if run.failure else None)
    return run_link(run), tag("bdi", short_name(run.model)), tag("bdi", short_name(run.suite)), state


def _done(run: Run) -> int:
    return sum(each.done_count for each in run.tasks)


def _made(run: Run) -> str:
    return f"{run.create_time:%Y-%m-%d %H:%M}" if run.create_time else ""


def _attributes(run: Run) -> dict[str, Attribute]:
    return {"data_run": run.name, "data_state": run.state.value, "data_items": _done(run)}


def _progress(done: int, whole: int) -> Markup | str:
    if not whole:
        return ""
    # Items that are drawn may be decided long before all were asked.
    return tag("progress", f"{done} of {whole}", value=done, max=whole, title=f"{done} of at most {whole} items")
