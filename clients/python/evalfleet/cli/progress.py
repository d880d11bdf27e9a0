"""A run's live progress: a bar for each task on a terminal, a line now and then elsewhere."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evalfleet.cli.decisions import interval_text, question_text
from evalfleet.cli.tables import number
from evalfleet.goals import Answer, TaskDecision
from evalfleet.results import Run, RunSnapshot, RunState, Suite, TaskProgress

_LINE_EVERY_PERCENT = 20


class ProgressView(Protocol):
    """Shows what is known of a run, as often as it changes."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show the run as it stands."""
        ...


def follow(snapshots: Iterable[RunSnapshot], console: Console, suite: Suite | None) -> RunSnapshot | None:
    """Show a run until it has ended and return its last snapshot; ``None`` if there was none."""
    last = None
    with LiveProgress(console, suite) if console.is_terminal else PlainProgress(console) as view:
        for last in snapshots:
            view.update(last)
    return last


class LiveProgress(AbstractContextManager["LiveProgress"]):
    """Bars on a terminal: items done, failures, the primary metric so far."""

    def __init__(self, console: Console, suite: Suite | None) -> None:
        self._primary = {each.name: each.primary_metric for each in suite.tasks} if suite else {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )

    def update(self, snapshot: RunSnapshot) -> None:
        """Move the bars."""
        for task in snapshot.run.tasks:
            if task.task not in self._bars:
                self._bars[task.task] = self._progress.add_task(task.task, total=task.item_count, note="")
            self._progress.update(
                self._bars[task.task],
                total=task.item_count,
                completed=task.done_count,
                note=self._note(snapshot, task),
            )

    def _note(self, snapshot: RunSnapshot, task: TaskProgress) -> str:
        decision = next((each for each in snapshot.run.decisions if each.task == task.task), None)
        notes = [_decision_note(decision)] if decision is not None else []
        metric = "" if decision is not None else self._primary.get(task.task)
        for estimate in snapshot.estimates:
            if (estimate.task, estimate.metric, estimate.group) == (
                task.task,
                metric,
                "",
            ) and estimate.value is not None:
                notes.append(f"{metric} {number(estimate.value)}")
        if task.failed_count:
            notes.append(f"[red]{task.failed_count} failed[/]")
        if unjudged := _unjudged(snapshot).get(task.task):
            notes.append(f"[red]{unjudged} not judged[/]")
        return "  ".join(notes)

    def __enter__(self) -> "LiveProgress":
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


def _decision_note(decision: TaskDecision) -> str:
    """Write where a drawn task stands: estimate, interval, answers, what it saves."""
    answers = " ".join(f"{each.question} [bold]{each.answer.value}[/]" for each in decision.questions)
    if decision.value is None:
        return answers
    saved = f"  {decision.saved_count / max(1, decision.item_count):.0%} saved" if decision.is_decided else ""
    return f"{decision.metric} {number(decision.value)}, {interval_text(decision)}  {answers}{saved}"


class PlainProgress(AbstractContextManager["PlainProgress"]):
    """Lines for logs and pipes: each change of state, and each fifth of the items."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state: RunState | None = None
        self._next_percent = _LINE_EVERY_PERCENT
        self._told: set[str] = set()

    def update(self, snapshot: RunSnapshot) -> None:
        """Write a line if there is news."""
        run = snapshot.run
        if run.state is not self._state:
            self._state = run.state
            self._console.print(f"{run.name}: {run.state.value}", markup=False)
        self._tell_decisions(run)
        if None in [each.item_count for each in run.tasks] or not run.tasks:
            return
        total = sum(each.item_count or 0 for each in run.tasks)
        done = sum(each.done_count for each in run.tasks)
        percent = 100 * done // total if total else 0
        if percent >= self._next_percent:
            failed = _failed(run)
            note = f", {failed} failed" if failed else ""
            if unjudged := sum(_unjudged(snapshot).values()):
                note += f", {unjudged} not judged"
            self._console.print(f"{run.name}: {done}/{total} items{note}", markup=False)
            self._next_percent = percent - percent % _LINE_EVERY_PERCENT + _LINE_EVERY_PERCENT

    def _tell_decisions(self, run: Run) -> None:
        """Write a line for each question that was decided since the last time."""
        for decision in run.decisions:
            for question in decision.questions:
                asked = question_text(decision, question)
                if question.answer is Answer.UNDECIDED or asked in self._told:
                    continue
                self._told.add(asked)
                self._console.print(
                    f"{run.name}: {asked} {question.answer.value} after {decision.completed_count:,} of "
                    f"{decision.item_count:,} items: {number(decision.value)}, {interval_text(decision)}",
                    markup=False,
                )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to end: every line stands for itself."""


def _unjudged(snapshot: RunSnapshot) -> dict[str, int]:
    """Return by task how many items one of its metrics is not known of, the metric that lacks most."""
    counts: dict[str, int] = {}
    for each in snapshot.estimates:
        if not each.group:
            counts[each.task] = max(counts.get(each.task, 0), each.unjudged_count)
    return counts


def _failed(run: Run) -> int:
    return sum(each.failed_count for each in run.tasks)
