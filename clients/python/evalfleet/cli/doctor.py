"""`evalfleet doctor`: what this machine has and lacks for a fleet, and how to get it."""

from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table
from evalfleet.doctor import CHECK_GROUP, Finding, FindingState
from evalfleet.doctor.fleet_health import fleet_findings
from evalfleet.doctor.machine import machine_findings

_STYLES = {FindingState.OK: "green", FindingState.WARN: "yellow", FindingState.MISSING: "red"}
_SERVICES_HINT = "pip install 'evalfleet-services[standalone]'"


@click.command(
    epilog="""\b
Examples:
  evalfleet doctor
  evalfleet doctor --json | jq -r '.[] | select(.state != "ok") | .remedy'
  evalfleet --endpoint safety=guard.example:8102 doctor

\b
Nothing is installed or changed. ok: there; warn: works, with less; missing: does not work; the
line beneath says the command that gets it. `needed` is what `evalfleet up` cannot do without;
a service of a running fleet that is away counts, too.
Exit code: 0 nothing that is needed is missing, 1 something is."""
)
@json_option
@click.pass_obj
def doctor(session: Session, json_path: Path | None) -> None:
    """Look at what this machine has and lacks for a fleet, and say how to get it."""
    with session.err.status("looking at this machine"):
        found = tuple(_findings(session))
    if not write_json(found, json_path):
        _show(session.out, found)
    if any(each.is_fatal for each in found):
        raise SystemExit(1)


def _findings(session: Session) -> Iterator[Finding]:
    yield from machine_findings(session.state_dir)
    fleet = tuple(fleet_findings(session.targets, session.state_dir))
    checks = tuple(entry_points(group=CHECK_GROUP))
    for each in checks:
        yield from _checked(each, session.state_dir)
    if not checks:
        # A client of somebody else's fleet needs none.
        is_client = any(each.state is FindingState.OK for each in fleet)
        told = "not installed: no fleet can be started here"
        state = FindingState.WARN if is_client else FindingState.MISSING
        yield Finding("services", "evalfleet-services", state, told, _SERVICES_HINT, is_needed=not is_client)
    yield from fleet


def _checked(entry: EntryPoint, state_dir: Path) -> Iterable[Finding]:
    """Run another distribution's checks; one that cannot be run is a finding."""
    try:
        return tuple(entry.load()(state_dir))
    except ImportError as error:
        told = f"its checks cannot be loaded: {error}"
        return (Finding("services", entry.name, FindingState.MISSING, told, _SERVICES_HINT, is_needed=True),)
    except Exception as error:  # noqa: BLE001 - the other findings are wanted all the same
        told = f"its checks failed: {type(error).__name__}: {error}"
        return (Finding("services", entry.name, FindingState.WARN, told),)


def _show(console: Console, found: Iterable[Finding]) -> None:
    table = plain_table("", "subject", "state", "", "found")
    area = ""
    for each in found:
        needed = "needed" if each.is_needed else ""
        state = Text(each.state.value, style=_STYLES[each.state])
        table.add_row("" if each.area == area else each.area, Text(each.subject), state, needed, Text(each.told))
        area = each.area
        if each.remedy and each.state is not FindingState.OK:
            table.add_row("", "", "", "", Text(f"→ {each.remedy}", style="cyan"))
    console.print(table)
    lacking = [each.subject for each in found if each.is_fatal]
    warned = sum(each.state is FindingState.WARN for each in found)
    told = f"missing: {', '.join(lacking)}" if lacking else "nothing that a default fleet needs is missing"
    console.print(f"{told}; {warned} warnings", markup=False)
