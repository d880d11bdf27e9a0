"""`evalfleet rank`: which of several models are the best? Clear losers get no more items."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalfleet.cli.completion import completes
from evalfleet.cli.decisions import Undecided
from evalfleet.cli.failures import explained
from evalfleet.cli.goal_options import BudgetType
from evalfleet.cli.json_output import json_option, write_json
from evalfleet.cli.plots import interval_bar
from evalfleet.cli.reports import results_console
from evalfleet.cli.run import INTERRUPTED, resolved_model
from evalfleet.cli.session import Session
from evalfleet.cli.tables import number, plain_table
from evalfleet.errors import EvalFleetError
from evalfleet.goals import Budget, StopReason
from evalfleet.names import short_name
from evalfleet.rankings import Contender, Ranking, Standing
from evalfleet.results import RunState

_STYLES = {
    Standing.TOP: "green",
    Standing.OUT: "dim",
    Standing.NOT_INFERIOR: "green",
    Standing.INFERIOR: "red",
    Standing.CONTENDING: "yellow",
    Standing.TIED: "cyan",
}
_WHY_UNDECIDED = {
    StopReason.BUDGET_EXHAUSTED: "the budget is used up",
    StopReason.CALLER_BUDGET_EXHAUSTED: "the caller's budget of today is used up",
    StopReason.COMPLETE: "all items are asked, and those that failed without a value leave it open",
}
_INFERIOR = 1
_SAID = {Standing.TOP: "in", Standing.NOT_INFERIOR: "not inferior", Standing.TIED: "tied"}


@click.command(
    epilog="""\b
Examples:
  evalfleet rank out/step-100 out/step-200 out/step-300 --task gsm8k
  evalfleet rank step-1 step-2 step-3 step-4 --task mmlu_anatomy --top 2 --budget 5usd
  evalfleet rank step-1 step-2 step-3 --task gsm8k --tolerance 0.01
  evalfleet rank a b c --suite release --task gsm8k --json - | jq .contenders

\b
All models are asked the same items in the same order. A model gets no more of them once it is
proven that as many others as are wanted are better. With 0.95 confidence, no model that is one of
the best is ever dropped, however often one looks, unless another is exactly as good: of such, one
may be in and the other out. Models that are close take the most items. With a --tolerance of
0.01 those that are named may be worse than others by up to 0.01: models that are alike are then
called tied, and not asked everything.

\b
Exit code: 0 the best are known, 2 they are not (budget used up, cancelled, all items asked and
still open) or an error, 130 interrupted."""
)
@click.argument(
    "models", nargs=-1, required=True, metavar="DIR|NAME...", shell_complete=completes("models", folders=True)
)
@click.option(
    "--task",
    metavar="NAME",
    default="",
    shell_complete=completes("tasks"),
    help="The task; may be left out if the suite has one.",
)
@click.option(
    "--suite",
    metavar="NAME",
    shell_complete=completes("suites"),
    help="The suite of the task; default: the task alone.",
)
@click.option("--metric", metavar="NAME", default="", help="Rank by this metric.  [default: the primary one]")
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True, metavar="K", help="How many are wanted."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="NUMBER",
    help="How much worse than others the best may be, in the metric's unit.  [default: 0]",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    metavar="NUMBER",
    help="1 minus the probability that one of the best is dropped.  [default: 0.95]",
)
@click.option(
    "--budget",
    type=BudgetType(),
    metavar="LIMIT,...",
    help="What all models together may spend: 2usd, 5000items, 10min.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Most items: the answer is about these alone.")
@click.option("--concurrency", type=click.IntRange(1, 1024), metavar="N", help="Items in flight, all models together.")
@click.option("--detach", is_flag=True, help="Start the ranking and return.")
@json_option
@click.pass_obj
def rank(
    session: Session,
    *,
    models: tuple[str, ...],
    task: str,
    suite: str | None,
    metric: str,
    top: int,
    tolerance: float | None,
    confidence: float | None,
    budget: Budget | None,
    limit: int | None,
    concurrency: int | None,
    detach: bool,
    json_path: Path | None,
) -> None:
    """Find the best of several models, with no more items than that takes."""
    if not (task or suite):
        raise click.UsageError("name the --task that the models are ranked by")
    if top >= len(models):
        raise click.UsageError(f"--top {top} of {len(models)} models leaves nothing to find out")
    console = results_console(session, json_path)
    try:
        name = suite or task
        session.fleet.suites.get(name)
        started = session.fleet.rankings.start(
            models=[resolved_model(session, each, console) for each in models],
            suite=name,
            task=task,
            metric=metric,
            top=top,
            tolerance=tolerance,
            confidence=confidence,
            budget=budget,
            item_limit=limit,
            concurrency=concurrency,
        )
        if detach:
            write_json(started, json_path, failure=Undecided)
            console.print(f"{started.name} started; `evalfleet rankings {short_name(started.name)}` follows it")
            return
        ended = follow_ranking(session, started.name, console)
    except EvalFleetError as error:
        raise Undecided(explained(error)) from None
    _report(console, ended, json_path)
    raise SystemExit(_exit_code(ended))


@click.command(
    epilog="""\b
Examples:
  evalfleet rankings
  evalfleet rankings rank-1a2b3c4d
  evalfleet rankings rank-1a2b3c4d --cancel

\b
Exit code with a NAME: 0 the best are known, or none is inferior by more than the margin, or it
was cancelled as asked; 1 one is inferior by more than the margin; 2 undecided, ended otherwise or
an error; 130 interrupted."""
)
@click.argument("name", required=False, shell_complete=completes("rankings"))
@click.option("--cancel", is_flag=True, help="Stop it; what is done stays.")
@json_option
@click.pass_obj
def rankings(session: Session, *, name: str | None, cancel: bool, json_path: Path | None) -> None:
    """List rankings, newest first; with a NAME follow one until it has ended, and show it."""
    console = results_console(session, json_path)
    if name is None:
        if cancel:
            raise click.UsageError("name the ranking")
        found = session.fleet.rankings.list()
        if not write_json(found, json_path):
            console.print(_listing(found))
        return
    try:
        if cancel:
            session.fleet.rankings.cancel(name)
        ended = follow_ranking(session, name, console)
    except EvalFleetError as error:
        raise Undecided(explained(error)) from None
    _report(console, ended, json_path)
    is_done = cancel and ended.state is RunState.CANCELLED
    raise SystemExit(0 if is_done else _exit_code(ended))


def follow_ranking(session: Session, name: str, console: Console) -> Ranking:
    """Show a ranking until it has ended, and return it as it ended."""
    ranking = session.fleet.rankings.get(name)
    console.print(f"{ranking.name}: {len(ranking.contenders)} models on {ranking.task} {ranking.metric}", markup=False)
    told: set[str] = set()
    try:
        with console.status(ranking.name) as status:
            for ranking in session.fleet.rankings.watch(name):
                for each in ranking.contenders:
                    if each.standing not in (Standing.CONTENDING, Standing.BASE) and each.run not in told:
                        told.add(each.run)
                        console.print(_news(ranking, each), markup=False)
                open_count = sum(each.standing is Standing.CONTENDING for each in ranking.contenders)
                status.update(
                    f"{ranking.name}: {ranking.asked_count:,} items asked, {ranking.compared_count:,} compared, "
                    f"{open_count} open"
                )
    except KeyboardInterrupt:
        short = short_name(name)
        console.print(
            f"\nThe ranking goes on. `evalfleet rankings {short}` follows it, `evalfleet rankings {short} --cancel` "
            "stops it.",
            markup=False,
        )
        raise SystemExit(INTERRUPTED) from None
    return ranking


def _news(ranking: Ranking, contender: Contender) -> str:
    said = _SAID.get(contender.standing, contender.standing.value)
    count = contender.decided_after
    after = f" after {count:,} of {ranking.item_count or 0:,} items" if count else ""
    return f"{ranking.name}: {contender.model} is {said}{after}"


def ranking_table(ranking: Ranking) -> Table:
    """Lay out a ranking, one row a model, the best first."""
    arrow = "↓" if ranking.lower_is_better else "↑"
    table = plain_table(
        ">", "model", f">{ranking.metric} {arrow}", ">interval", "plot", "standing", ">after", ">items", "run"
    )
    known = [each.interval for each in ranking.contenders if each.interval]
    least = min((lower for lower, _ in known), default=0.0)
    most = max((upper for _, upper in known), default=1.0)
    for place, each in enumerate(ranking.in_order, 1):
        bar = span = ""
        if each.interval and each.value is not None:
            lower, upper = each.interval
            span = f"{lower:.3f} … {upper:.3f}"
            bar = interval_bar(lower, each.value, upper, least=least, most=most)
        table.add_row(
            str(place),
            Text(short_name(each.model)),
            number(each.value),
            span,
            bar,
            Text(_SAID.get(each.standing, each.standing.value), style=_STYLES.get(each.standing, "")),
            "" if each.decided_after is None else f"{each.decided_after:,}",
            f"{each.evaluated_count:,}",
            Text(short_name(each.run)),
        )
    return table


def saved_line(ranking: Ranking) -> str:
    """Say how many items were asked, of how many that full runs would have asked."""
    full = max(1, ranking.full_count)
    saved = max(0, full - ranking.asked_count)
    return f"asked: {ranking.asked_count:,} of {ranking.full_count:,} items of full runs, {saved / full:.1%} saved"


def _report(console: Console, ranking: Ranking, json_path: Path | None) -> None:
    console.print()
    console.print(ranking_table(ranking))
    level = f"{ranking.confidence:.4g}"
    console.print(
        f"intervals: for the whole of the task, all together and whenever one stops, with {level} confidence",
        style="dim",
        markup=False,
    )
    console.print(saved_line(ranking), markup=False)
    best = [short_name(each.model) for each in ranking.in_order if each.standing is Standing.TOP]
    if ranking.state is not RunState.SUCCEEDED:
        console.print(f"{ranking.name} {ranking.state.value}: {ranking.failure}".rstrip(": "), markup=False)
    elif best:
        _tell_best(console, ranking, best)
    elif not ranking.is_decided:
        why = _WHY_UNDECIDED.get(ranking.stop_reason, ranking.stop_reason.value)
        console.print(f"undecided: {why}; estimates and intervals hold", markup=False)
    write_json(ranking, json_path, failure=Undecided)


def _tell_best(console: Console, ranking: Ranking, best: Sequence[str]) -> None:
    """Say which are the best, and what was not found out about those that are as good within the tolerance."""
    tied = [short_name(each.model) for each in ranking.in_order if each.standing is Standing.TIED]
    within = f" within ±{ranking.tolerance:g}" if tied else ""
    console.print(f"the best {len(best)} of {len(ranking.contenders)}{within}: {', '.join(best)}", markup=False)
    if tied:
        console.print(
            f"tied with {'it' if len(best) == 1 else 'them'}: {', '.join(tied)}; better by no more than "
            f"{ranking.tolerance:g}, if at all",
            markup=False,
        )


def _exit_code(ranking: Ranking) -> int:
    if ranking.state is RunState.SUCCEEDED and any(each.standing is Standing.INFERIOR for each in ranking.contenders):
        return _INFERIOR
    return 0 if ranking.state is RunState.SUCCEEDED and ranking.is_decided else Undecided.exit_code


def _listing(found: Iterable[Ranking]) -> Table:
    table = plain_table("ranking", "task", "metric", ">models", "state", ">asked", "best")
    for each in found:
        best = ", ".join(short_name(one.model) for one in each.contenders if one.standing is Standing.TOP)
        table.add_row(
            short_name(each.name),
            each.task,
            each.metric,
            str(len(each.contenders)),
            each.state.value,
            f"{each.asked_count:,}",
            Text(best),
        )
    return table
