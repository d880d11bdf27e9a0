"""`evalfleet prune`: takes old or named runs, and old texts, out of the ledger."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.ledger import Pruned

_MOST_NAMED = 20


@click.command(
    epilog="""\b
Examples:
  evalfleet prune --keep-text-days 30 --keep-runs-days 365 --dry-run
  evalfleet prune gsm8k-1a2b3c gsm8k-4d5e6f

\b
Without runs or days, only texts that no result refers to any more are removed. A run whose
results are deleted stays in `evalfleet runs`; what shows or compares it says that they are gone.
Runs in progress are left alone."""
)
@click.argument("runs", nargs=-1, shell_complete=completes("runs"))
@click.option(
    "--keep-runs-days",
    type=click.IntRange(min=1),
    metavar="DAYS",
    help="Delete the results of runs that got none for so many days.",
)
@click.option(
    "--keep-text-days",
    type=click.IntRange(min=1),
    metavar="DAYS",
    help="Remove long prompts and answers of runs that got no results for so many days; scores stay.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be taken out.")
@json_option
@click.pass_obj
def prune(
    session: Session,
    runs: tuple[str, ...],
    *,
    keep_runs_days: int | None,
    keep_text_days: int | None,
    dry_run: bool,
    json_path: Path | None,
) -> None:
    """Take the results of RUNS, or what is old, out of the ledger."""
    for name in runs:
        run = session.fleet.runs.get(name)
        if not run.state.is_final:
            raise click.ClickException(f"{run.name} is {run.state.value}; `evalfleet cancel {name}` ends it")
    pruned = session.fleet.ledger.prune(
        runs,
        keep_runs_days=keep_runs_days,
        keep_text_days=keep_text_days,
        runs_have_ended=True,
        dry_run=dry_run,
    )
    if write_json(pruned, json_path):
        return
    for line in _told(pruned, dry_run=dry_run):
        session.out.print(line, markup=False, soft_wrap=True)


def _told(pruned: Pruned, *, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = [f"{would}deleted: {run}" for run in pruned.runs[:_MOST_NAMED]]
    if len(pruned.runs) > _MOST_NAMED:
        lines.append(f"{would}deleted: {len(pruned.runs) - _MOST_NAMED} more runs")
    return [
        *lines,
        f"{len(pruned.runs):,} runs with {pruned.result_count:,} results {would}deleted, "
        f"{pruned.text_count:,} texts of {pruned.text_bytes:,} bytes {would}removed",
    ]
