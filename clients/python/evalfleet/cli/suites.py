"""`evalfleet suites`: what can be run."""

import click

from evalfleet.cli.session import Session
from evalfleet.cli.tables import suites_table


@click.command(
    epilog="""\b
Examples:
  evalfleet suites
  evalfleet suites demo"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def suites(session: Session, names: tuple[str, ...]) -> None:
    """List suites and their tasks."""
    found = [session.fleet.suites.get(each) for each in names] if names else session.fleet.suites.list()
    session.out.print(suites_table(found))
