"""`evalfleet run`: evaluate one model with one suite."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import click
from rich.console import Console

from evalfleet.cli.completion import completes
from evalfleet.cli.decisions import Undecided
from evalfleet.cli.escalation import climb, escalation_options, run_exit_code, starting_tier
from evalfleet.cli.failures import explained
from evalfleet.cli.goal_options import cost_options, gate_option, precision_option, previous_option
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.models import may_be_a_folder, register
from evalfleet.cli.progress import follow
from evalfleet.cli.reports import groups_option, known_suite, report, results_console
from evalfleet.cli.session import Session
from evalfleet.errors import EvalFleetError
from evalfleet.goals import Budget, Gate
from evalfleet.names import short_name
from evalfleet.results import Run, RunSnapshot

INTERRUPTED = 130


@click.command(
    epilog="""\b
Examples:
  evalfleet run --model out/step-100 --suite demo
  evalfleet run --model step-100 --suite mmlu --limit 200 --json step-100.json
  evalfleet run --model step-100 --suite demo --task arithmetic --task refusals
  evalfleet run --model step-100 --suite demo --detach      then: evalfleet watch RUN
  evalfleet run --model step-100 --suite gsm8k --gate 'gsm8k>=0.55' --budget 2usd
  evalfleet run --model step-100 --suite mmlu --precision 0.02
  evalfleet run --model step-100 --suite release --tier auto --escalate

\b
With --gate or --precision a task stops as soon as its question is decided, which mostly takes a
small part of its items; with --budget the run ends when that is used up. Either way the estimate
is for the whole task, and its interval holds although the run has stopped early.

\b
A folder is registered first, which loads it; `models/NAME` always means a registered model.
Ctrl-C stops the watching, not the run. Exit code: 0 the run succeeded, 1 it did not,
2 wrong usage, 130 interrupted. With gates: 0 all passed, 1 one failed, 2 not decided or an error."""
)
@click.option(
    "--model",
    required=True,
    metavar="DIR|NAME",
    shell_complete=completes("models", folders=True),
    help="A checkpoint folder, by its absolute path also one that only the services see, or a registered model's name.",
)
@click.option(
    "--suite",
    required=True,
    metavar="NAME",
    shell_complete=completes("suites"),
    help="The suite; `evalfleet suites` lists them.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Most items a task: the first of the seeded order."
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    shell_complete=completes("tasks"),
    help="Only this task of the suite; repeatable.",
)
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
@gate_option
@precision_option
@cost_options
@previous_option
@escalation_options
@click.option(
    "--samples",
    type=click.IntRange(1, 128),
    metavar="N",
    help="Samples of each generated answer, for pass@k and pass^k; needs a temperature above 0.",
)
@click.option(
    "--temperature", type=click.FloatRange(0, 2), metavar="NUMBER", help="Of generated answers; default: the task's."
)
@click.option("--detach", is_flag=True, help="Start the run and return.")
@click.option(
    "--request-id",
    type=click.UUID,
    metavar="UUID",
    help="Makes repeating safe: the same one again follows the run that it has started, and starts no second one.",
)
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
    gates: tuple[Gate, ...],
    precision: float | None,
    budget: Budget | None,
    tier: str | None,
    confidence: float | None,
    no_history: bool,
    previous: str,
    changed: str | None,
    escalate: bool,
    samples: int | None,
    temperature: float | None,
    detach: bool,
    request_id: UUID | None,
    groups: bool,
    json_path: Path | None,
) -> None:
    """Evaluate a model with a suite, show progress, then a table of results."""
    console = results_console(session, json_path)
    first_tier = starting_tier(tier, changed, escalate=escalate)
    with gates_failing_with_2(bool(gates) or bool(first_tier)):
        # Asked first: an unknown suite is not worth loading a checkpoint for.
        session.fleet.suites.get(suite)
        name = resolved_model(session, model, console)
        started = session.fleet.runs.start(
            model=name,
            suite=suite,
            tasks=tasks,
            item_limit=limit,
            seed=seed,
            concurrency=concurrency,
            priority=priority,
            gates=gates,
            precision=precision,
            budget=budget,
            tier=first_tier,
            confidence=confidence,
            use_history=False if no_history else None,
            previous_run=previous,
            escalate=escalate,
            change=changed,
            sample_count=samples,
            temperature=temperature,
            request_id=None if request_id is None else str(request_id),
        )
        if detach:
            short = short_name(started.name)
            write_json(RunSnapshot(started, (), ()), json_path)
            console.print(f"{started.name} started; `evalfleet watch {short}` follows it", markup=False)
            return
        code = climb(
            started,
            lambda run: show_run(session, run.name, json_path=json_path, groups=groups),
            session.fleet.runs.get,
            console,
        )
    raise SystemExit(code)


@contextmanager
def gates_failing_with_2(asks: bool) -> Iterator[None]:
    """Turn errors into the exit code that keeps them apart from a gate that failed, where something is asked."""
    try:
        yield
    except EvalFleetError as error:
        if not asks:
            raise
        raise Undecided(explained(error)) from None


def watch_run(session: Session, name: str, *, json_path: Path | None, groups: bool) -> None:
    """Show a run until it has ended, then its table; leaves with the exit code for how it, or its gates, ended."""
    raise SystemExit(run_exit_code(show_run(session, name, json_path=json_path, groups=groups)))


def show_run(session: Session, name: str, *, json_path: Path | None, groups: bool) -> Run:
    """Show a run until it has ended, then its table, and return it as it ended."""
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
    return snapshot.run


def resolved_model(session: Session, given: str, console: Console) -> str:
    """Return the name of a registered model; a folder, here or where the services are, is registered first."""
    if may_be_a_folder(given):
        return register(session, given, console=console).name
    if given.startswith("models/"):
        return given
    if os.sep in given or given.startswith((".", "~")):
        raise click.BadParameter(f"there is no folder {given!r}", param_hint="--model")
    return given
