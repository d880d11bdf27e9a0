"""Tiers one after another: the cheap ones first, and dearer ones only for a model that is still in the running."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console

from evalfleet.cli.decisions import gates_exit_code
from evalfleet.cli.reports import exit_code
from evalfleet.goals import ModelChange, outcome_of
from evalfleet.results import Run, RunState

AUTO = "auto"
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def escalation_options(command: CommandT) -> CommandT:
    """Add ``--changed`` and ``--escalate``."""
    for option in (
        click.option(
            "--escalate",
            is_flag=True,
            help="After a tier whose gates passed, or stayed undecided, go on with the next: smoke, standard, deep. "
            "The budget is that of all of them together.",
        ),
        click.option(
            "--changed",
            type=click.Choice([each.value for each in ModelChange]),
            help="What is new in this model, for --tier auto, which else finds out by the models' digests.",
        ),
    ):
        command = option(command)
    return command


def starting_tier(tier: str | None, changed: str | None, *, escalate: bool) -> str:
    """Name the tier to begin with; empty: a run without one.

    Raises:
        UsageError: ``changed`` contradicts ``tier``, or there is nothing to escalate from.
    """
    if changed and tier not in (None, AUTO):
        raise click.UsageError("--tier and --changed both say where to begin: give one of them, or --tier auto")
    first = tier or (AUTO if changed else "")
    if escalate and not first:
        raise click.UsageError("--escalate needs --tier or --changed, which say where to begin")
    return first


def climb(first: Run, show: Callable[[Run], Run], get: Callable[[str], Run], console: Console) -> int:
    """Follow a run and those of the tiers after it, and return the exit code of the last one that says something.

    Args:
        first: the run of the first tier.
        show: shows a run until it has ended and returns it as it ended.
        get: reads a run by its name.
        console: where it is told why a tier was chosen, and that a further one begins.
    """
    code = 0
    run = first
    if first.tier_choice is not None:
        console.print(f"tier {first.tier}: {first.tier_choice.reason}", markup=False)
    while True:
        ended = show(run)
        # A deeper tier without gates takes nothing back of what those before have said.
        if ended.gates or ended.state is not RunState.SUCCEEDED or run is first:
            code = run_exit_code(ended)
        if not ended.next_run:
            return code
        said = outcome_of(ended.decisions, len(ended.gates)).value if ended.gates else "done"
        run = get(ended.next_run)
        console.print(f"\nthe tier {ended.tier} is {said}; going on with {run.tier}", markup=False)


def run_exit_code(run: Run) -> int:
    """Return the exit code for how a run's gates came out, or for how it ended if it has none."""
    return gates_exit_code(run) if run.gates else exit_code(run.state)
