"""`evalfleet runs`, `show`, `watch` and `cancel`."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.quality_options import guard_quality_option
from evalfleet.cli.reports import groups_option, known_suite, report, results_console
from evalfleet.cli.run import watch_run
from evalfleet.cli.session import Session
from evalfleet.cli.tables import runs_table
from evalfleet.names import short_name
from evalfleet.results import GuardQuality

_FAILED_SHOWN = 1000


@click.command(
    epilog="""\b
Examples:
  evalfleet runs
  evalfleet runs --model step-100 --limit 5
  evalfleet runs --json | jq -r '.[] | select(.state == "failed") | .name'"""
)
@click.option("--model", metavar="NAME", shell_complete=completes("models"), help="Only runs of this model.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most runs to list.")
@json_option
@click.pass_obj
def runs(session: Session, model: str | None, limit: int, json_path: Path | None) -> None:
    """List runs, newest first."""
    found = session.fleet.runs.list(model=model, limit=limit)
    if write_json(found, json_path):
        return
    if not found:
        session.out.print("no runs yet: evalfleet run --model DIR --suite demo", markup=False)
        return
    session.out.print(runs_table(found))


@click.command(
    epilog="""\b
Examples:
  evalfleet show r-1a2b3c
  evalfleet show r-1a2b3c --groups --failed
  evalfleet show r-1a2b3c --json - | jq .estimates
  evalfleet show r-1a2b3c --guard-quality passed=@judge.json
  evalfleet show r-1a2b3c --guard-quality 182/200,391/400

\b
The last one also shows the rates of `unsafe` corrected for the guard's errors: of 200 texts
labelled unsafe it found 182, of 400 labelled safe it cleared 391."""
)
@click.argument("run", shell_complete=completes("runs"))
@click.option(
    "--failed", is_flag=True, help="Also list the items that could not be judged, or in some metrics not, and why."
)
@guard_quality_option
@groups_option
@json_option
@click.pass_obj
def show(
    session: Session,
    run: str,
    *,
    failed: bool,
    guard_qualities: tuple[GuardQuality, ...],
    groups: bool,
    json_path: Path | None,
) -> None:
    """Show what a run found, as far as it is."""
    snapshot = session.fleet.runs.snapshot(run, guard_qualities=guard_qualities, with_set_measures=True)
    items = session.fleet.runs.failed_items(snapshot.run.name, limit=_FAILED_SHOWN) if failed else None
    suite = known_suite(session, snapshot.run.suite)
    report(session, snapshot, suite, json_path=json_path, groups=groups, failed_items=items)
    if items is None:
        return
    console = results_console(session, json_path)
    for each in items:
        sample = f" sample {each.sample}" if each.sample else ""
        about = f" {', '.join(each.metrics)}" if each.metrics else ""
        line = f"{each.task} {each.item}{sample}{about}: {each.reason}: {each.message}"
        console.print(line, markup=False, soft_wrap=True)
    if not items:
        console.print("no item failed", markup=False)
    elif len(items) == _FAILED_SHOWN:
        console.print(f"only the first {_FAILED_SHOWN} failed items are shown", markup=False)


@click.command(
    epilog="""\b
Example:
  evalfleet watch r-1a2b3c

\b
Ctrl-C stops the watching, not the run.
Exit code: 0 the run succeeded, 1 it did not, 130 interrupted."""
)
@click.argument("run", shell_complete=completes("runs"))
@groups_option
@json_option
@click.pass_obj
def watch(session: Session, run: str, *, groups: bool, json_path: Path | None) -> None:
    """Follow a run until it has ended, then show its table."""
    watch_run(session, run, json_path=json_path, groups=groups)


@click.command(
    epilog="""\b
Example:
  evalfleet cancel r-1a2b3c"""
)
@click.argument("run", shell_complete=completes("runs"))
@json_option
@click.pass_obj
def cancel(session: Session, run: str, json_path: Path | None) -> None:
    """Stop a run; the items that are done stay."""
    cancelled = session.fleet.runs.cancel(run)
    if write_json(cancelled, json_path):
        return
    done = sum(each.done_count for each in cancelled.tasks)
    session.out.print(
        f"{cancelled.name}: {cancelled.state.value}, {done} items done; "
        f"`evalfleet show {short_name(cancelled.name)}` shows them",
        markup=False,
    )
