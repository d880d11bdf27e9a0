"""`evalfleet run`: evaluate one model with one suite."""

import os
from pathlib import Path

import click
from rich.console import Console

from evalfleet.cli.models import register
from evalfleet.cli.progress import follow
from evalfleet.cli.reports import (
    check_writable,
    exit_code,
    groups_option,
    json_option,
    known_suite,
    report,
    results_console,
)
from evalfleet.cli.session import Session
from evalfleet.names import short_name

INTERRUPTED = 130


@click.command(
    epilog="""\b
Examples:
  evalfleet run --model out/step-100 --suite demo
  evalfleet run --model step-100 --suite mmlu --limit 200 --json step-100.json
  evalfleet run --model step-100 --suite demo --task arithmetic --task refusals
  evalfleet run --model step-100 --suite demo --detach      then: evalfleet watch RUN

\b
A folder is registered first, which loads it; `models/NAME` always means a registered model.
Ctrl-C stops the watching, not the run. Exit code: 0 the run succeeded, 1 it did not,
2 wrong usage, 130 interrupted."""
)
@click.option("--model", required=True, metavar="DIR|NAME", help="A checkpoint folder, or a registered model's name.")
@click.option("--suite", required=True, metavar="NAME", help="The suite; `evalfleet suites` lists them.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Most items a task: the first of the seeded order."
)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task of the suite; repeatable.")
@click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    metavar="INTEGER",
    help="Seed of item order and sampling; default: the suite's, so that all models meet the same items.",
)
@click.option("--concurrency", type=click.IntRange(1, 1024), metavar="N", help="Items in flight at once, up to 1024.")
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    show_default=True,
    metavar="N",
    help="-100 to 100: higher ones start first; among equals, callers take turns.",
)
@click.option("--detach", is_flag=True, help="Start the run and return.")
@groups_option
@json_option
@click.pass_obj
def run(
    session: Session,
    *,
    model: str,
    suite: str,
    limit: int | None,
    tasks: tuple[str, ...],
    seed: int | None,
    concurrency: int | None,
    priority: int,
    detach: bool,
    groups: bool,
    json_path: Path | None,
) -> None:
    """Evaluate a model with a suite, show progress, then a table of results."""
    check_writable(json_path)
    if detach and json_path:
        raise click.UsageError(
            "--detach returns before there are results: leave out --json, use `evalfleet show --json`"
        )
    console = results_console(session, json_path)
    # Asked first: an unknown suite is not worth loading a checkpoint for.
    session.fleet.suites.get(suite)
    started = session.fleet.runs.start(
        model=_resolve_model(session, model, console),
        suite=suite,
        tasks=tasks,
        item_limit=limit,
        seed=seed,
        concurrency=concurrency,
        priority=priority,
    )
    if detach:
        name = short_name(started.name)
        console.print(f"{started.name} started; `evalfleet watch {name}` follows it", markup=False)
        return
    watch_run(session, started.name, json_path=json_path, groups=groups)


def watch_run(session: Session, name: str, *, json_path: Path | None, groups: bool) -> None:
    """Show a run until it has ended, then its table; leaves with the exit code for how it ended."""
    console = results_console(session, json_path)
    current = session.fleet.runs.get(name)
    suite = known_suite(session, current.suite)
    console.print(f"{current.name}: {current.suite} on {current.model}", markup=False)
    try:
        follow(session.fleet.runs.watch(current.name), console, suite)
    except KeyboardInterrupt:
        short = short_name(current.name)
        console.print(
            f"\nThe run goes on. `evalfleet watch {short}` follows it, `evalfleet cancel {short}` stops it.",
            markup=False,
        )
        raise SystemExit(INTERRUPTED) from None
    snapshot = session.fleet.runs.snapshot(current.name)
    report(session, snapshot, suite, json_path=json_path, groups=groups)
    raise SystemExit(exit_code(snapshot.run.state))


def _resolve_model(session: Session, given: str, console: Console) -> str:
    """Return the name of a registered model; a folder is registered first."""
    if os.path.isdir(given):
        return register(session, given, console=console).name
    if given.startswith("models/"):
        return given
    if os.sep in given or given.startswith((".", "~")):
        raise click.BadParameter(f"there is no folder {given!r}", param_hint="--model")
    return given
