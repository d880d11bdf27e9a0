"""`evalfleet servers`: which program, with which contract, settings and models, answers for each service."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import click

from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table
from evalfleet.endpoints import SERVICES
from evalfleet.errors import EvalFleetError
from evalfleet.servers import ServerInfo

_SHOWN_DIGEST_CHARACTERS = 12


@click.command(
    epilog="""\b
Examples:
  evalfleet servers                     version, contract and settings of every service
  evalfleet servers generation          one of them, with its models and their digests
  evalfleet servers --json | jq -r '.[] | .service + " " + .version'

\b
Behind a balancer one replica answers: two that differ in a digest are not configured
alike, or not of one version."""
)
@click.argument("names", nargs=-1, metavar="[SERVICE]...", type=click.Choice(SERVICES))
@json_option
@click.pass_obj
def servers(session: Session, names: tuple[str, ...], *, json_path: Path | None) -> None:
    """Show which version, contract, settings and models each service runs."""
    found = tuple(_asked(session, names))
    if write_json(found, json_path):
        return
    table = plain_table("service", "version", "revision", "contract", "settings", "up for", "instance")
    for each in found:
        table.add_row(
            each.service,
            each.version,
            each.revision[:_SHOWN_DIGEST_CHARACTERS] or "–",
            each.contract_digest[:_SHOWN_DIGEST_CHARACTERS],
            each.settings_digest[:_SHOWN_DIGEST_CHARACTERS],
            str(timedelta(seconds=int(each.uptime_seconds))),
            each.instance,
        )
    session.out.print(table)
    if names:
        for artifact in (artifact for each in found for artifact in each.artifacts):
            session.out.print(f"{artifact.name}: {artifact.digest}", markup=False, soft_wrap=True)


def _asked(session: Session, names: tuple[str, ...]) -> Iterator[ServerInfo]:
    """Yield what the services tell; of a whole fleet, one that is away is a remark, unless all are."""
    failures: list[EvalFleetError] = []
    for service in names or SERVICES:
        try:
            yield session.fleet.server_info(service)
        except EvalFleetError as error:
            failures.append(error)
            if names or len(failures) == len(SERVICES):
                raise
            session.err.print(f"{service}: {error.explanation()}", markup=False, soft_wrap=True)
