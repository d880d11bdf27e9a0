"""`evalfleet budget`: what a caller may still spend today."""

from pathlib import Path

import click
from rich.table import Table

from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table
from evalfleet.goals import CallerBudget

# Field of Budget and Spend → what people call it, and how its amounts are written.
_QUANTITIES = {
    "items": ("items", "{:,.0f}", 1.0),
    "tokens": ("tokens", "{:,.0f}", 1.0),
    "engine_seconds": ("engine seconds", "{:,.1f}", 1.0),
    "cost_micro_usd": ("cost", "${:,.4f}", 1e6),
}


@click.command(
    epilog="""\b
Examples:
  evalfleet budget                      yours: of $EVALFLEET_CALLER, or of those without a name
  evalfleet budget team/a

\b
The operator says what a caller may spend in a day (UTC) over all of its runs. When that is used
up, running runs end with what they have found, and new ones are refused until the next day."""
)
@click.argument("caller", required=False, default="", metavar="[CALLER]")
@json_option
@click.pass_obj
def budget(session: Session, caller: str, json_path: Path | None) -> None:
    """Show what a caller may spend today, has spent, and has left."""
    found = session.fleet.runs.caller_budget(caller)
    if write_json(found, json_path):
        return
    if not found.limit.is_limited:
        session.out.print(f"{found.caller} has no daily budget", markup=False)
        return
    session.out.print(f"{found.caller} on {found.day} (UTC), by the rule for {found.pattern}", markup=False)
    session.out.print(_budget_table(found))
    session.out.print(f"begins anew at {found.reset_time:%Y-%m-%d %H:%M} UTC", style="dim", markup=False)


def left_text(found: CallerBudget) -> str:
    """Write what is left of each limit: ``120 items, $0.5000``."""
    parts = []
    for name, (label, _, _) in _QUANTITIES.items():
        if getattr(found.limit, name) is not None:
            amount = _written(name, _left(found, name))
            parts.append(amount if name == "cost_micro_usd" else f"{amount} {label}")
    return ", ".join(parts)


def _budget_table(found: CallerBudget) -> Table:
    table = plain_table("", ">a day", ">spent", ">in flight", ">left")
    for name, (label, _, _) in _QUANTITIES.items():
        limit = getattr(found.limit, name)
        spent, reserved = _written(name, getattr(found.spent, name)), _written(name, getattr(found.reserved, name))
        if limit is None:
            table.add_row(label, "–", spent, reserved, "")
        else:
            table.add_row(label, _written(name, limit), spent, reserved, _written(name, _left(found, name)))
    return table


def _left(found: CallerBudget, name: str) -> float:
    used = float(getattr(found.spent, name) + getattr(found.reserved, name))
    return max(0.0, float(getattr(found.limit, name)) - used)


def _written(name: str, amount: float) -> str:
    _, form, scale = _QUANTITIES[name]
    return form.format(amount / scale)
