"""`evalfleet items`: which items of a task are hard, tell models apart, or look broken."""

from pathlib import Path

import click

from evalfleet.cli.comparison_tables import item_flags, item_remarks, items_table
from evalfleet.cli.completion import completes
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.reports import known_suite, results_console
from evalfleet.cli.session import Session
from evalfleet.comparison_results import AnalyzedItem, ItemAnalysis
from evalfleet.results import Run, Task

_RUNS_SEARCHED = 1000
_FLAGS = ("suspect", "duplicate", "dead", "saturated")


@click.command(
    epilog="""\b
Examples:
  evalfleet items gsm8k
  evalfleet items gsm8k --only suspect --limit 50
  evalfleet items gsm8k --run gsm8k-1a2b3c --run gsm8k-4d5e6f --json items.json

\b
An item is saturated if every model gets it right, dead if none does, suspect if better models do
worse on it (its answer may be wrong), and a duplicate if its text is nearly that of another one."""
)
@click.argument("task", shell_complete=completes("tasks"))
@click.option("--metric", help="The metric; default: the task's primary one.")
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="RUN",
    shell_complete=completes("runs"),
    help="Only this run, the newest first; repeatable.",
)
@click.option("--most-runs", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most runs to use.")
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Of two texts, from which on they are near-duplicates.",
)
@click.option("--only", type=click.Choice(_FLAGS), help="Only items of this kind.")
@click.option("--all", "show_all", is_flag=True, help="Also items that are none of these, the hardest first.")
@click.option("--limit", type=click.IntRange(min=1), default=30, show_default=True, help="Most items to list.")
@json_option
@click.pass_obj
def items(
    session: Session,
    task: str,
    *,
    metric: str | None,
    runs: tuple[str, ...],
    most_runs: int,
    similarity: float,
    only: str | None,
    show_all: bool,
    limit: int,
    json_path: Path | None,
) -> None:
    """Analyse the items of TASK from what the runs so far made of them."""
    used = _runs_with(session, task, runs, most_runs)
    described = _described(session, task, used[0])
    if described is None and metric is None:
        raise click.ClickException(f"{used[0].suite} is not known any more: name the metric with --metric")
    asked = metric or (described.primary_metric if described else "")
    analysis = session.fleet.comparisons.items(
        task,
        asked,
        lower_is_better=described is not None and bool(described.lower_is_better(asked)),
        runs=[each.name for each in used],
        duplicate_similarity=similarity,
        flagged_only=not show_all and json_path is None,
    )
    console = results_console(session, json_path)
    shown = _chosen(analysis, only, show_all=show_all)
    if shown:
        console.print(items_table(shown[:limit]))
    if len(shown) > limit:
        console.print(f"only {limit} of {len(shown):,} are shown: --limit, --only", style="dim", markup=False)
    for line in item_remarks(analysis):
        console.print(line, markup=False, soft_wrap=True)
    write_json(analysis, json_path)


def _runs_with(session: Session, task: str, named: tuple[str, ...], most: int) -> list[Run]:
    """Return the runs to use, newest first."""
    if named:
        return [session.fleet.runs.get(each) for each in named]
    found = [
        run
        for run in session.fleet.runs.list(limit=_RUNS_SEARCHED)
        if any(each.task == task and each.done_count for each in run.tasks)
    ]
    if not found:
        raise click.ClickException(f"no run has results of a task {task!r}; `evalfleet runs` lists runs")
    return found[:most]


def _described(session: Session, task: str, run: Run) -> Task | None:
    suite = known_suite(session, run.suite)
    return next((each for each in suite.tasks if each.name == task), None) if suite else None


def _chosen(analysis: ItemAnalysis, only: str | None, *, show_all: bool) -> list[AnalyzedItem]:
    """Return the items to list: the most remarkable first, duplicates together, the hardest first."""

    def rank(item: AnalyzedItem) -> tuple[int, int, float, str]:
        flags = item_flags(item)
        first = min((_FLAGS.index(each) for each in flags), default=len(_FLAGS))
        discrimination = item.discrimination if item.suspect and item.discrimination is not None else 0.0
        return first, item.duplicate_group, discrimination - item.difficulty, item.item

    wanted = [
        each for each in analysis.items if (only in item_flags(each) if only else show_all or bool(item_flags(each)))
    ]
    return sorted(wanted, key=rank)
