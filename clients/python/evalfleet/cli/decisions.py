"""What a run has decided, for people."""

from collections.abc import Mapping

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalfleet.cli.tables import number, plain_table
from evalfleet.goals import Answer, Budget, Outcome, QuestionDecision, Spend, StopReason, TaskDecision, outcome_of
from evalfleet.results import Run, RunState

_STYLES = {Answer.PASSED: "green", Answer.FAILED: "red", Answer.REACHED: "green"}
_STOPS: Mapping[StopReason, str] = {
    StopReason.DECIDED: "every question is decided",
    StopReason.GATE_FAILED: "a gate failed",
    StopReason.BUDGET_EXHAUSTED: "the budget is used up",
    StopReason.CALLER_BUDGET_EXHAUSTED: "the caller's budget of today is used up",
}
UNDECIDED_EXIT_CODE = 2


def decisions_table(run: Run) -> Table:
    """Lay out what is decided, one row a question."""
    table = plain_table("question", "answer", ">estimate", ">interval", ">items used", ">of", ">saved")
    for decision in run.decisions:
        for question in decision.questions or (None,):
            table.add_row(
                question_text(decision, question),
                answer_text(question),
                number(decision.value),
                interval_text(decision),
                f"{decision.completed_count:,}",
                f"{decision.item_count:,}",
                f"{decision.saved_count / max(1, decision.item_count):.1%}",
            )
    return table


def question_text(decision: TaskDecision, question: QuestionDecision | None) -> str:
    """Write a question with its task and metric: ``gsm8k exact_match >=0.55``."""
    asked = f" {question.question}" if question else ""
    return f"{decision.task} {decision.metric}{asked}"


def answer_text(question: QuestionDecision | None) -> Text:
    """Write an answer in its colour; what has no question is an estimate only."""
    if question is None:
        return Text("–")
    return Text(question.answer.value, style=_STYLES.get(question.answer, "yellow"))


def interval_text(decision: TaskDecision) -> str:
    """Write the interval that holds whenever one stops."""
    if decision.value is None:
        return ""
    return f"{decision.lower:.3f} … {decision.upper:.3f}"


def print_decisions(console: Console, run: Run) -> None:
    """Print what a run has decided, what that saved and what it spent; nothing for a run without questions."""
    if run.decisions:
        console.print()
        console.print(decisions_table(run))
        console.print(
            f"intervals: for the whole of each task, valid whenever one stops; all decisions right with "
            f"{run.confidence:.4g} confidence",
            style="dim",
            markup=False,
        )
    for decision in run.decisions:
        if decision.unknown_count:
            console.print(
                f"not known: the scores of {decision.unknown_count:,} items of {decision.task}: answers and intervals "
                "hold whatever they are from 0 to 1",
                style="dim",
                markup=False,
            )
    total = sum(each.item_count for each in run.decisions)
    saved = sum(each.saved_count for each in run.decisions)
    if run.stop_reason in _STOPS:
        share = f"{saved / max(1, total):.1%}"
        console.print(
            f"stopped because {_STOPS[run.stop_reason]}: {saved:,} of {total:,} items saved ({share})", markup=False
        )
    if run.spend is not None:
        console.print(f"spent: {_spend_text(run.spend, run.budget)}", style="dim", markup=False)


def _spend_text(spend: Spend, budget: Budget) -> str:
    """Write what was spent beside each limit that there is."""

    def of(limit: str | None) -> str:
        return "" if limit is None else f" of {limit}"

    def written(value: float | None, form: str, scale: float = 1.0) -> str | None:
        return None if value is None else form.format(value / scale)

    parts = [
        f"{spend.items:,} items{of(written(budget.items, '{:,.0f}'))}",
        f"{spend.tokens:,} tokens computed{of(written(budget.tokens, '{:,.0f}'))}",
        f"{spend.engine_seconds:,.1f} s of the engine{of(written(budget.engine_seconds, '{:,.1f} s'))}",
        f"${spend.cost_micro_usd / 1e6:,.4f}{of(written(budget.cost_micro_usd, '${:,.4f}', 1e6))}",
        f"{spend.wall_seconds:,.1f} s{of(written(budget.wall_seconds, '{:,.1f} s'))}",
    ]
    return ", ".join(parts)


def gates_exit_code(run: Run) -> int:
    """Return 0 if all gates passed, 1 if one failed, 2 if that is not known or the run could not be finished."""
    if run.state is not RunState.SUCCEEDED:
        return UNDECIDED_EXIT_CODE
    codes = {Outcome.PASSED: 0, Outcome.FAILED: 1, Outcome.UNDECIDED: UNDECIDED_EXIT_CODE}
    return codes[outcome_of(run.decisions, len(run.gates))]


class Undecided(click.ClickException):
    """An error that keeps a gate from being decided."""

    exit_code = UNDECIDED_EXIT_CODE
