"""`evalfleet suites`: what can be run."""

import click

from evalfleet.cli.session import Session
from evalfleet.cli.tables import suites_table, tasks_table, tiers_table


@click.command(
    epilog="""\b
Examples:
  evalfleet suites                              list them
  evalfleet suites demo                         its tasks with their metrics, and its tiers"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def suites(session: Session, names: tuple[str, ...]) -> None:
    """List suites, or the tasks and tiers of those named."""
    if not names:
        session.out.print(suites_table(session.fleet.suites.list()))
        return
    for suite in [session.fleet.suites.get(each) for each in names]:
        session.out.print(f"{suite.name}: {suite.description}", markup=False, soft_wrap=True)
        session.out.print(tasks_table(suite))
        if suite.tiers:
            session.out.print(tiers_table(suite))
