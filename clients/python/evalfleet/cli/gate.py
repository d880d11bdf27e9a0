"""`evalfleet gate`: does a checkpoint keep its bounds? Asks no more items than the answer needs."""

from pathlib import Path

import click

from evalfleet.cli.completion import completes
from evalfleet.cli.goal_options import GateType, cost_options, previous_option
from evalfleet.cli.json_output import json_option
from evalfleet.cli.reports import results_console
from evalfleet.cli.run import gates_failing_with_2, resolved_model, watch_run
from evalfleet.cli.session import Session
from evalfleet.goals import Budget, Gate


@click.command(
    epilog="""\b
Examples:
  evalfleet gate 'gsm8k>=0.55' --model out/step-100
  evalfleet gate 'gsm8k>=0.55' 'harmbench:unsafe<=0.02' --model step-100 --suite release
  evalfleet gate 'mmlu_anatomy>=40%' --model step-100 --budget 5000items,10min
  evalfleet gate 'gsm8k>=0.55' --model step-100 && deploy step-100

\b
A gate is about what the model scores on the WHOLE task. Items are drawn one after another and
the task stops as soon as the answer is certain enough, whatever it is: with 0.95 confidence, no
gate of the run is decided wrongly, however often one looks. A score far from the threshold is
decided after few items, one on the threshold after all of them. Only the gates' tasks are run.

\b
Exit code: 0 every gate passed, 1 a gate failed, 2 not decided (the budget was used up, the run
was cancelled) or an error, 130 interrupted."""
)
@click.argument("gates", type=GateType(), nargs=-1, required=True, metavar="TASK>=NUMBER...")
@click.option(
    "--model",
    required=True,
    metavar="DIR|NAME",
    shell_complete=completes("models", folders=True),
    help="A checkpoint folder, by its absolute path also one that only the services see, or a registered model's name.",
)
@click.option(
    "--suite",
    metavar="NAME",
    shell_complete=completes("suites"),
    help="The suite of the tasks; may be left out if there is one task.",
)
@click.option("--concurrency", type=click.IntRange(1, 1024), metavar="N", help="Items in flight at once, up to 1024.")
@click.option("--all", "goes_on", is_flag=True, help="Go on after a gate has failed, until all are decided.")
@cost_options
@previous_option
@json_option
@click.pass_obj
def gate(
    session: Session,
    *,
    gates: tuple[Gate, ...],
    model: str,
    suite: str | None,
    concurrency: int | None,
    goes_on: bool,
    budget: Budget | None,
    tier: str | None,
    confidence: float | None,
    no_history: bool,
    previous: str,
    json_path: Path | None,
) -> None:
    """Decide whether a model keeps bounds on its scores, with as few items as that takes."""
    tasks = tuple(dict.fromkeys(each.task for each in gates))
    if suite is None and len(tasks) > 1:
        raise click.UsageError("gates of several tasks need --suite, the suite that has them all")
    with gates_failing_with_2(True):
        name = suite or tasks[0]
        session.fleet.suites.get(name)
        started = session.fleet.runs.start(
            model=resolved_model(session, model, results_console(session, json_path)),
            suite=name,
            tasks=tasks,
            concurrency=concurrency,
            gates=gates,
            budget=budget,
            tier=tier or "",
            confidence=confidence,
            use_history=False if no_history else None,
            previous_run=previous,
            stop_at_failure=not goes_on,
        )
        watch_run(session, started.name, json_path=json_path, groups=False)
