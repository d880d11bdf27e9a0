"""`evalfleet compare`: two runs, or two models, item by item; against a margin no more items than the answer needs."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console

from evalfleet.cli.comparison_tables import comparison_remarks, comparison_table
from evalfleet.cli.completion import completes
from evalfleet.cli.difference_plots import check_plot, write_difference_plot
from evalfleet.cli.goal_options import BudgetType
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.rank import follow_ranking, saved_line
from evalfleet.cli.reports import known_suite, results_console
from evalfleet.cli.run import resolved_model
from evalfleet.cli.session import Session
from evalfleet.comparison_results import ComparedMetric, ComparedRuns, Verdict
from evalfleet.errors import EvalFleetError, NotFoundError
from evalfleet.goals import Budget
from evalfleet.names import short_name
from evalfleet.results import Run, RunState, Suite

EXIT_CODES = {Verdict.NOT_INFERIOR: 0, Verdict.INFERIOR: 1, Verdict.UNDECIDED: 2, None: 0}
_POLL_SECONDS = 1.0


class NoAnswerError(click.ClickException):
    """An error of a command whose exit code is an answer: 1 would be one."""

    exit_code = 2


@click.command(
    epilog="""\b
Examples:
  evalfleet compare demo-1a2b3c demo-4d5e6f
  evalfleet compare demo-1a2b3c demo-4d5e6f --margin 0.01
  evalfleet compare demo-1a2b3c demo-4d5e6f --margin 0.01 --stop    VARIANT may still be running
  evalfleet compare out/base out/base-int4 --margin 0.01 --task gsm8k    asks both models
  evalfleet compare demo-1a2b3c demo-4d5e6f --cluster passage --json - | jq .comparisons
  evalfleet compare demo-1a2b3c demo-4d5e6f --plot difference.svg

\b
With --margin it says whether VARIANT is worse than BASE by more than the margin, over all items
of the tasks, and after how many of them that was known; looking again and again does no harm.
BASE and VARIANT are runs, or both are models: checkpoint folders or models/NAME. Models are asked
the same items of one task in the same order, and no more of them once the answer is known.
Exit code with --margin: 0 not inferior, 1 inferior, 2 undecided or an error; else 0, or 2."""
)
@click.argument("base", shell_complete=completes("runs", folders=True))
@click.argument("variant", shell_complete=completes("runs", folders=True))
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="M",
    help="How much worse VARIANT may be, as a difference of means (0.01: one point of a hundred).",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="NAME",
    shell_complete=completes("tasks"),
    help="Only this task; of runs, repeatable.",
)
@click.option(
    "--suite",
    metavar="NAME",
    shell_complete=completes("suites"),
    help="Of models: the suite of the task; default: the task alone.",
)
@click.option(
    "--budget", type=BudgetType(), metavar="LIMIT,...", help="Of models: what both may spend together: 2usd, 9000items."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), metavar="N", help="Of models: items in flight, both together."
)
@click.option("--all-metrics", is_flag=True, help="Every metric, not only the tasks' primary ones; not with --margin.")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Confidence level of intervals and decisions.",
)
@click.option(
    "--cluster", metavar="COLUMN", default="", help="Group column whose values say which items belong together."
)
@click.option("--unpaired", is_flag=True, help="Compare as two samples what cannot be paired, instead of refusing.")
@click.option(
    "--stop", is_flag=True, help="Wait while VARIANT is running, and cancel it as soon as the answer is known."
)
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=check_plot,
    metavar="FILE.svg|png",
    help="Also draw the differences with their intervals into this file (pip install 'evalfleet[plots]').",
)
@json_option
@click.pass_obj
def compare(
    session: Session,
    base: str,
    variant: str,
    *,
    margin: float | None,
    tasks: tuple[str, ...],
    suite: str | None,
    budget: Budget | None,
    concurrency: int | None,
    all_metrics: bool,
    confidence: float,
    cluster: str,
    unpaired: bool,
    stop: bool,
    plot_path: Path | None,
    json_path: Path | None,
) -> None:
    """Compare two runs, or two models, item by item: how large is the difference, and may it be chance?"""
    if all_metrics and margin is not None:
        raise click.UsageError("--margin needs to know which way is better: leave out --all-metrics")
    if stop and margin is None:
        raise click.UsageError("--stop needs a question that can be answered early: give --margin")
    if (asks_models := _are_models(base, variant)) and (margin is None or all_metrics or stop or unpaired):
        raise click.UsageError("models are compared by --margin, without --all-metrics, --stop and --unpaired")
    if asks_models and (len(tasks) > 1 or not (tasks or suite)):
        raise click.UsageError("models are compared by one --task, or by a --suite that has one")
    if not asks_models and (suite or budget or concurrency):
        raise click.UsageError("--suite, --budget and --concurrency are for models, not for runs")

    def ask(metrics: Sequence[ComparedMetric]) -> ComparedRuns:
        return session.fleet.comparisons.compare(
            base,
            variant,
            metrics,
            margin=margin,
            confidence_level=confidence,
            cluster_column=cluster,
            allow_unpaired=unpaired,
        )

    try:
        if asks_models:
            wish = _Wish(margin or 0.0, suite or tasks[0], "".join(tasks), confidence, budget, concurrency)
            base, variant = _asked(session, results_console(session, json_path), (base, variant), wish)
        runs = session.fleet.runs.get(base), session.fleet.runs.get(variant)
        described = known_suite(session, runs[1].suite)
        if stop:
            _follow(session, runs, described, tasks, ask)
            runs = session.fleet.runs.get(base), session.fleet.runs.get(variant)
        compared = ask(() if all_metrics else primary_metrics(*runs, described, tasks))
    except EvalFleetError as error:
        # 1 would read as «inferior».
        raise NoAnswerError(error.explanation()) from None
    if tasks:
        kept = tuple(each for each in compared.comparisons if each.task in tasks)
        compared = dataclasses.replace(compared, comparisons=kept)
    _report(session, runs, compared, margin, json_path)
    if plot_path is not None:
        write_difference_plot(compared, runs, margin, plot_path)
    raise SystemExit(EXIT_CODES[compared.verdict])


def _are_models(base: str, variant: str) -> bool:
    """Say whether models are to be asked; folders and ``models/NAME`` are models.

    Raises:
        UsageError: one is a model and the other is not.
    """
    found = [each.startswith("models/") or os.path.isdir(each) for each in (base, variant)]
    if found[0] != found[1]:
        raise click.UsageError("BASE and VARIANT are both runs, or both models: folders or models/NAME")
    return found[0]


@dataclasses.dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked of two models."""

    margin: float
    suite: str
    task: str
    confidence: float
    budget: Budget | None
    concurrency: int | None


def _asked(session: Session, console: Console, models: tuple[str, str], wish: _Wish) -> tuple[str, str]:
    """Ask two models until the answer is known, and return their runs.

    Raises:
        ClickException: it could not be finished.
    """
    session.fleet.suites.get(wish.suite)
    started = session.fleet.rankings.start(
        models=[resolved_model(session, each, console) for each in models],
        suite=wish.suite,
        task=wish.task,
        margin=wish.margin,
        confidence=wish.confidence,
        budget=wish.budget,
        concurrency=wish.concurrency,
    )
    ended = follow_ranking(session, started.name, console)
    if ended.state is not RunState.SUCCEEDED:
        raise NoAnswerError(f"{ended.name} {ended.state.value}: {ended.failure}".rstrip(": "))
    console.print(saved_line(ended), markup=False)
    base, variant = ended.contenders
    return base.run, variant.run


def primary_metrics(base: Run, variant: Run, suite: Suite | None, tasks: Sequence[str]) -> tuple[ComparedMetric, ...]:
    """Return the primary metrics of the tasks that both runs have; of all if ``tasks`` is empty.

    Raises:
        ClickException: there are none, or the suite is not known any more.
    """
    if suite is None:
        raise NoAnswerError(f"{variant.suite} is not known any more, so neither are its primary metrics: --all-metrics")
    found = {each.task: each for each in base.tasks}, {each.task: each for each in variant.tasks}
    shared = [each for each in suite.tasks if each.name in found[0] and each.name in found[1]]
    if missing := [each for each in tasks if each not in {task.name for task in shared}]:
        raise NoAnswerError(
            f"not in both runs: {', '.join(missing)}; both have {', '.join(each.name for each in shared)}"
        )
    metrics = tuple(
        ComparedMetric(
            task=each.name,
            metric=each.primary_metric,
            lower_is_better=not each.higher_is_better,
            base_digest=found[0][each.name].data_digest,
            variant_digest=found[1][each.name].data_digest,
            item_count=found[1][each.name].item_count or None,
        )
        for each in shared
        if not tasks or each.name in tasks
    )
    if not metrics:
        raise NoAnswerError(f"{base.name} and {variant.name} have no task in common")
    return metrics


def _follow(
    session: Session,
    runs: tuple[Run, Run],
    suite: Suite | None,
    tasks: Sequence[str],
    ask: Callable[[Sequence[ComparedMetric]], ComparedRuns],
) -> None:
    """Wait until the question is answered or the variant's run has ended; a run that answered it is cancelled."""
    base, variant = runs
    with session.err.status(f"following {variant.name}") as status:
        while not variant.state.is_final:
            time.sleep(_POLL_SECONDS)
            variant = session.fleet.runs.get(variant.name)
            try:
                compared = ask(primary_metrics(base, variant, suite, tasks))
            except NotFoundError:
                # No result of it has come yet.
                continue
            done = sum(each.done_count for each in variant.tasks)
            status.update(f"{variant.name}: {done:,} items done, {compared.verdict}")
            if compared.verdict is not Verdict.UNDECIDED and not variant.state.is_final:
                session.fleet.runs.cancel(variant.name)
                session.err.print(f"{variant.name}: answered after {done:,} items, cancelled", markup=False)
                return


def _report(
    session: Session, runs: tuple[Run, Run], compared: ComparedRuns, margin: float | None, json_path: Path | None
) -> None:
    console = results_console(session, json_path)
    base, variant = runs
    console.print(comparison_table(compared, margin))
    for line in comparison_remarks(compared):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    console.print(f"base: {base.name}, {base.suite} on {base.model}", markup=False)
    console.print(f"variant: {variant.name}, {variant.suite} on {variant.model}", markup=False)
    if margin is not None:
        name = short_name(variant.model)
        said = {
            Verdict.NOT_INFERIOR: f"{name} is not inferior: worse by no more than {margin:g}",
            Verdict.INFERIOR: f"{name} is inferior: worse by more than {margin:g}",
            Verdict.UNDECIDED: f"undecided whether {name} is worse by more than {margin:g}",
        }
        console.print(said[compared.verdict or Verdict.UNDECIDED], markup=False)
    write_json(compared, json_path, failure=NoAnswerError)
