"""`evalfleet regressions`: did a task become worse along a training run?"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from evalfleet.cli.compare import NoAnswerError
from evalfleet.cli.comparison_tables import alarm_lines, regressions_table, skipped_lines
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.reports import known_suite, results_console
from evalfleet.cli.session import Session
from evalfleet.comparison_results import WatchedMetric
from evalfleet.errors import EvalFleetError
from evalfleet.names import full_name, short_name
from evalfleet.results import Run, RunState, Suite

_RUNS_SEARCHED = 10_000
_MOST_RUNS = 2000
_ALARM = 1


@click.command(
    epilog="""\b
Examples:
  evalfleet regressions --suite capability --model 'step-*'
  evalfleet regressions demo-1a2b3c demo-4d5e6f demo-7a8b9c --tolerance 0.02

\b
Without RUNS: the succeeded runs of the suite, one a model, the oldest first; those of rankings
are left out. Ask again after every checkpoint: the chance of any false alarm in the whole
training stays below --false-alarms.
Exit code: 0 no alarm, 1 an alarm, 2 an error."""
)
@click.argument("runs", nargs=-1, shell_complete=completes("runs"))
@click.option(
    "--suite", metavar="NAME", shell_complete=completes("suites"), help="The runs of this suite; needed without RUNS."
)
@click.option("--model", metavar="PATTERN", default="*", help="Only models whose name matches, like 'step-*'.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    shell_complete=completes("tasks"),
    help="Only this task; repeatable.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.01,
    show_default=True,
    help="Drops of up to this much are no regressions.",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Largest probability of any false alarm, over all checkpoints and tasks together.",
)
@json_option
@click.pass_obj
def regressions(
    session: Session,
    runs: tuple[str, ...],
    *,
    suite: str | None,
    model: str,
    tasks: tuple[str, ...],
    tolerance: float,
    false_alarms: float,
    json_path: Path | None,
) -> None:
    """Look for tasks that became worse along RUNS, one a checkpoint in the order of training."""
    if bool(runs) == (suite is not None):
        raise click.UsageError("name the runs, or their --suite")
    try:
        sequence = (
            [session.fleet.runs.get(each) for each in runs] if suite is None else _of_suite(session, suite, model)
        )
        if len(sequence) < 2:
            raise NoAnswerError("there is nothing to compare before the second checkpoint")
        described = known_suite(session, sequence[-1].suite)
        found = session.fleet.comparisons.regressions(
            [each.name for each in sequence],
            _metrics(described, sequence, tasks),
            tolerance=tolerance,
            false_alarm_rate=false_alarms,
        )
    except EvalFleetError as error:
        raise NoAnswerError(error.explanation()) from None
    console = results_console(session, json_path)
    names = [short_name(each.model) for each in sequence]
    console.print(regressions_table(found))
    lines = [line for alarm in found.alarms for line in alarm_lines(alarm, found.runs, names)]
    for line in [*lines, *skipped_lines(found, names)]:
        console.print(line, markup=False, soft_wrap=True)
    count = len(found.alarms)
    console.print(
        f"{len(sequence)} checkpoints, {names[0]} … {names[-1]}: {count or 'no'} alarm{'' if count == 1 else 's'}; "
        f"drops up to {tolerance:g} are tolerated; any false alarm in the whole training: at most {false_alarms:.0%}",
        markup=False,
        soft_wrap=True,
    )
    write_json(found, json_path, failure=NoAnswerError)
    raise SystemExit(_ALARM if found.alarms else 0)


def _of_suite(session: Session, suite: str, pattern: str) -> list[Run]:
    """Return the succeeded runs of a suite, oldest first; of several of one model the first: it stays the same."""
    name = full_name("suites", suite)
    found: dict[str, Run] = {}
    for run in reversed(session.fleet.runs.list(limit=_RUNS_SEARCHED)):
        # A model's part in a ranking is one task, and as little of that as the others left to ask.
        if run.suite != name or run.state is not RunState.SUCCEEDED or run.is_of_ranking:
            continue
        if fnmatchcase(short_name(run.model), pattern):
            found.setdefault(run.model, run)
    if len(found) > _MOST_RUNS:
        raise NoAnswerError(f"{len(found)} runs match; up to {_MOST_RUNS} can be watched: narrow --model")
    return list(found.values())


def _metrics(suite: Suite | None, sequence: Sequence[Run], tasks: Sequence[str]) -> tuple[WatchedMetric, ...]:
    """Return the primary metrics of the first run's tasks."""
    if suite is None:
        raise NoAnswerError(f"{sequence[-1].suite} is not known any more, so neither are its primary metrics")
    first = {each.task for each in sequence[0].tasks}
    if missing := [each for each in tasks if each not in first or each not in {task.name for task in suite.tasks}]:
        raise NoAnswerError(f"no task {', '.join(missing)} in {sequence[0].name}; it has {', '.join(sorted(first))}")
    return tuple(
        WatchedMetric(each.name, each.primary_metric, lower_is_better=not each.higher_is_better)
        for each in suite.tasks
        if each.name in first and (not tasks or each.name in tasks)
    )
