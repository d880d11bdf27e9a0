"""`evalfleet plan`: what a run would cost, before anything is spent."""

import os
from pathlib import Path

import click
from rich.table import Table

from evalfleet.cli.budget import left_text
from evalfleet.cli.completion import completes
from evalfleet.cli.goal_options import cost_options, gate_option, precision_option
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.session import Session
from evalfleet.cli.tables import plain_table
from evalfleet.goals import Budget, CostBasis, Gate, RunPlan, Spend
from evalfleet.names import short_name

_BASES = {
    CostBasis.SAME_MODEL: "this model in {}",
    CostBasis.OTHER_MODEL: "another model in {}",
    CostBasis.PROMPTS: "its prompts: tokens at most",
}


@click.command(
    epilog="""\b
Examples:
  evalfleet plan --suite mmlu
  evalfleet plan --suite gsm8k --gate 'gsm8k>=0.55' --model step-100
  evalfleet plan --suite capability --tier standard --budget 2usd

\b
The cost of an item is what items of the task have cost before, of this model or of another; where
there is no such run, an upper bound of the tokens by the length of the prompts. How many items a
gate takes depends on how far the score is from it: the last known score is taken, or one that is
five points away. Caches may make a run cheaper. Nothing is started, and no checkpoint is loaded."""
)
@click.option(
    "--suite",
    required=True,
    metavar="NAME",
    shell_complete=completes("suites"),
    help="The suite; `evalfleet suites` lists them.",
)
@click.option(
    "--model",
    metavar="DIR|NAME",
    shell_complete=completes("models", folders=True),
    help="A registered model whose earlier runs say what items cost.",
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
@gate_option
@precision_option
@cost_options
@json_option
@click.pass_obj
def plan(
    session: Session,
    *,
    suite: str,
    model: str | None,
    limit: int | None,
    tasks: tuple[str, ...],
    gates: tuple[Gate, ...],
    precision: float | None,
    budget: Budget | None,
    tier: str | None,
    confidence: float | None,
    no_history: bool,
    json_path: Path | None,
) -> None:
    """Say what a run would probably cost; takes the options of `evalfleet run`."""
    planned = session.fleet.runs.plan(
        # A folder that is not registered has no earlier runs.
        model="" if model is None or (os.path.isdir(model) and not model.startswith("models/")) else model,
        suite=suite,
        tasks=tasks,
        item_limit=limit,
        gates=gates,
        precision=precision,
        budget=budget,
        tier=tier or "",
        confidence=confidence,
        use_history=False if no_history else None,
    )
    if write_json(planned, json_path):
        return
    session.out.print(_plan_table(planned))
    if planned.exceeds_budget:
        session.out.print(
            "the budget will probably be used up before everything is decided; the run then ends with its estimates",
            markup=False,
        )
    if planned.caller_budget is not None:
        fits = "does not fit into" if planned.exceeds_caller_budget else "fits into"
        session.out.print(
            f"the run {fits} what is left of today's budget of {planned.caller_budget.caller}: "
            f"{left_text(planned.caller_budget)}",
            markup=False,
        )


def _plan_table(planned: RunPlan) -> Table:
    table = plain_table("task", ">items", ">of", ">tokens", ">engine seconds", ">cost", ">seconds", "by the cost of")
    for each in planned.tasks:
        basis = _BASES.get(each.basis, "?").format(short_name(each.basis_run))
        table.add_row(each.task, f"{each.expected_item_count:,}", f"{each.item_count:,}", *_costs(each.expected), basis)
    total = sum(each.item_count for each in planned.tasks)
    table.add_row("all", f"{planned.expected.items:,}", f"{total:,}", *_costs(planned.expected), "", style="bold")
    return table


def _costs(spend: Spend) -> tuple[str, str, str, str]:
    return (
        f"{spend.tokens:,}",
        f"{spend.engine_seconds:,.1f}",
        f"${spend.cost_micro_usd / 1e6:,.4f}",
        f"{spend.wall_seconds:,.1f}",
    )
