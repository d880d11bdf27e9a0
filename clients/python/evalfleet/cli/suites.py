"""`evalfleet suites`: what can be run."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import suites_table, tasks_table, tiers_table


@click.command(
    epilog="""\b
Examples:
  evalfleet suites                              list them
  evalfleet suites demo                         its tasks with their metrics, and its tiers
  evalfleet suites --json | jq '.[].name'"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completes("suites"))
@json_option
@click.pass_obj
def suites(session: Session, names: tuple[str, ...], *, json_path: Path | None) -> None:
    """List suites, or the tasks and tiers of those named."""
    found = [session.fleet.suites.get(each) for each in names] if names else session.fleet.suites.list()
    if write_json(found, json_path):
        return
    if not names:
        session.out.print(suites_table(found))
        return
    for suite in found:
        session.out.print(f"{suite.name}: {suite.description}", markup=False, soft_wrap=True)
        session.out.print(tasks_table(suite))
        if suite.tiers:
            session.out.print(tiers_table(suite))
