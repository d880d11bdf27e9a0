"""What a run found: as a table with remarks, and as JSON."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from evalfleet.cli.decisions import print_decisions
from evalfleet.cli.json_output import STANDARD_OUTPUT, fields_of, write_json
from evalfleet.cli.remarks import remarks
from evalfleet.cli.session import Session
from evalfleet.cli.set_measures import set_measures_table
from evalfleet.cli.tables import results_table
from evalfleet.errors import NotFoundError
from evalfleet.names import short_name
from evalfleet.results import FailedItem, RunSnapshot, RunState, Suite

groups_option = click.option("--groups", is_flag=True, help="Also show the estimates of groups of items.")


def known_suite(session: Session, name: str) -> Suite | None:
    """Read a suite; ``None`` if the fleet knows it no more, which a run's results outlive."""
    try:
        return session.fleet.suites.get(name)
    except NotFoundError:
        return None


def results_console(session: Session, json_path: Path | None) -> Console:
    """Choose where tables go: standard output, unless that carries the JSON."""
    return session.err if json_path == STANDARD_OUTPUT else session.out


def report(
    session: Session,
    snapshot: RunSnapshot,
    suite: Suite | None,
    *,
    json_path: Path | None,
    groups: bool,
    failed_items: Sequence[FailedItem] | None = None,
) -> None:
    """Print a run's table and remarks, and write its JSON, with ``failed_items`` if these were asked for.

    Raises:
        ClickException: the JSON file could not be written.
    """
    console = results_console(session, json_path)
    run = snapshot.run
    console.print()
    console.print(results_table(snapshot, suite, groups=groups))
    if snapshot.set_measures:
        console.print(set_measures_table(snapshot.set_measures, groups=groups))
    for line in remarks(snapshot):
        console.print(line, style="dim", markup=False)
    print_decisions(console, run)
    took = "" if run.seconds is None else f" in {run.seconds:,.1f} s"
    console.print(f"{run.name}: {run.suite} on {run.model} {run.state.value}{took}", markup=False)
    if run.failure:
        console.print(f"it failed: {run.failure}", style="red", markup=False)
    if any(each.failed_count for each in run.tasks) or any(each.failed_count for each in snapshot.estimates):
        console.print(f"`evalfleet show {short_name(run.name)} --failed` lists the failed items", markup=False)
    told = fields_of(snapshot)
    if failed_items is not None:
        told["failed_items"] = failed_items
    write_json(told, json_path)


def exit_code(state: RunState) -> int:
    """Return the exit code for how a run ended."""
    return 1 if state in (RunState.FAILED, RunState.CANCELLED) else 0
