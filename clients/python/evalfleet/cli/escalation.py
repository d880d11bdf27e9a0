"""Tiers one after another: the cheap ones first, and dearer ones only for a model that is still in the running."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console

from evalfleet.cli.decisions import gates_exit_code
from evalfleet.cli.goal_options import TIERS
from evalfleet.cli.reports import exit_code
from evalfleet.goals import Outcome, outcome_of
from evalfleet.results import Run, RunState

# The less has changed, the likelier it is that nothing is lost, and the cheaper it is worth beginning.
STARTING_TIERS = {"adapter": "smoke", "minor": "standard", "major": "deep"}

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def escalation_options(command: CommandT) -> CommandT:
    """Add ``--changed`` and ``--escalate``."""
    for option in (
        click.option(
            "--escalate",
            is_flag=True,
            help="After a tier whose gates passed, or stayed undecided, go on with the next: smoke, standard, deep.",
        ),
        click.option(
            "--changed",
            type=click.Choice(tuple(STARTING_TIERS)),
            help="What is new in this model, instead of --tier: begin with smoke (adapter), standard (minor) or deep "
            "(major).",
        ),
    ):
        command = option(command)
    return command


def tiers_to_run(tier: str | None, changed: str | None, *, escalate: bool) -> tuple[str, ...]:
    """Name the tiers to run, one after another; a single empty name is a run without a tier.

    Raises:
        UsageError: both ``tier`` and ``changed`` are given, or there is nothing to escalate from.
    """
    if tier and changed:
        raise click.UsageError("--tier and --changed both say where to begin: give one of them")
    first = tier or (STARTING_TIERS[changed] if changed else "")
    if not escalate:
        return (first,)
    if not first:
        raise click.UsageError("--escalate needs --tier or --changed, which say where to begin")
    return TIERS[TIERS.index(first) :]


def climb(tiers: Sequence[str], start: Callable[[str], Run], show: Callable[[Run], Run], console: Console) -> int:
    """Run tiers until one fails or cannot be finished, and return the exit code of the last one that says something.

    Args:
        tiers: their names, the cheapest first.
        start: starts the run of a tier.
        show: shows a run until it has ended and returns it as it ended.
        console: where it is told that a further tier begins.
    """
    code = 0
    for index, tier in enumerate(tiers):
        ended = show(start(tier))
        # A deeper tier without gates takes nothing back of what those before have said.
        if ended.gates or ended.state is not RunState.SUCCEEDED or index == 0:
            code = run_exit_code(ended)
        outcome = outcome_of(ended.decisions, len(ended.gates))
        if ended.state is not RunState.SUCCEEDED or outcome is Outcome.FAILED:
            break
        if index + 1 < len(tiers):
            said = outcome.value if ended.gates else "done"
            console.print(f"\nthe tier {tier} is {said}; going on with {tiers[index + 1]}", markup=False)
    return code


def run_exit_code(run: Run) -> int:
    """Return the exit code for how a run's gates came out, or for how it ended if it has none."""
    return gates_exit_code(run) if run.gates else exit_code(run.state)
