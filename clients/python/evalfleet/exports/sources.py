"""What is exported: a run that has ended, with its figures, and its items read when they are wanted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from evalfleet.errors import EvalFleetError, NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.item_results import ItemResult
from evalfleet.names import short_name
from evalfleet.results import Estimate, Model, Run, RunSnapshot, Suite, Task, TaskTotals

LOWER_IS_BETTER = frozenset([
    "unsafe", "over_refusal", "biased", "counter_biased", "brier", "edit_distance", "position_inconsistent",
    "token_perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "nats",
    # How a program may end that does not pass.
    "wrong", "exception", "syntax_error", "exited_early", "forged", "timed_out",
    "memory_limit", "process_limit", "output_limit", "killed",
])  # fmt: skip
"""Of metrics that are nobody's primary one, those of which less is better: all of our scorers and bundled tasks."""


class ExportError(EvalFleetError):
    """A run cannot be exported, or not in this format."""


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who says what of the model and of those who evaluated it, for formats that are published.

    Attributes:
        developer: who made the model; the first part of its id there.
        organization: who evaluated it.
        relationship: ``first_party``, ``third_party``, ``collaborative`` or ``other``.
    """

    developer: str = "local"
    organization: str = "unknown"
    relationship: str = "first_party"


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run to export.

    Attributes:
        snapshot: the run with its estimates and totals.
        suite: ``None`` if the fleet knows it no more.
        model: likewise.
        read: yields the results of a task, ordered by item and sample.
    """

    snapshot: RunSnapshot
    suite: Suite | None
    model: Model | None
    read: Callable[[str], Iterator[ItemResult]]
    publisher: Publisher = Publisher()

    @property
    def run(self) -> Run:
        """The run."""
        return self.snapshot.run

    @property
    def name(self) -> str:
        """The run's id, which is part of file names."""
        return short_name(self.run.name)

    @property
    def model_name(self) -> str:
        """The model's id."""
        return short_name(self.run.model)

    @property
    def ended(self) -> datetime:
        """When the run ended; else when it was made."""
        return self.run.end_time or self.run.create_time or datetime.fromtimestamp(0, UTC)

    @property
    def tasks(self) -> list[TaskTotals]:
        """Totals of the tasks that have outcomes."""
        return [each for each in self.snapshot.totals if each.item_count]

    def task(self, name: str) -> Task | None:
        """Return what the suite says of a task, if that is known."""
        return next((each for each in self.suite.tasks if each.name == name), None) if self.suite else None

    def estimates(self, task: str) -> list[Estimate]:
        """Return a task's estimates over all items, the primary metric's first.

        Where a part of the items was asked, the drawn metric's is of the whole task: a plain mean favours those that
        are drawn more often. It has no standard error.
        """
        described = self.task(task)
        primary = described.primary_metric if described else ""
        found = [self._headline(each) for each in self.snapshot.estimates if each.task == task and not each.group]
        return sorted(found, key=lambda each: (each.metric != primary, each.metric))

    def stopped_early(self, task: str) -> bool:
        """Whether a task's items were drawn and not all of them are in."""
        return any(each.task == task and not each.is_exact for each in self.run.decisions)

    def _headline(self, each: Estimate) -> Estimate:
        if each.task_value is None or each.task_interval is None or not self.stopped_early(each.task):
            return each
        return replace(each, value=each.task_value, interval=each.task_interval, standard_error=None)

    def lower_is_better(self, task: str, metric: str) -> bool:
        """Whether less of a metric is better, by the suite for primary metrics and by its name for others."""
        described = self.task(task)
        if described is not None and described.primary_metric == metric:
            return not described.higher_is_better
        return metric in LOWER_IS_BETTER


def read_run(fleet: Fleet, name: str, publisher: Publisher) -> ExportedRun:
    """Read what is exported, all but the items.

    Raises:
        ExportError: the run has not ended: an export of it would be of a moment that nobody can name.
        EvalFleetError: the fleet could not be asked.
    """
    run = fleet.runs.get(name)
    if not run.state.is_final:
        raise ExportError(
            f"{run.name} is {run.state.value}: wait until it has ended (`evalfleet watch {short_name(run.name)}`), "
            "or cancel it",
            reason="RUN_IN_PROGRESS",
        )
    snapshot = fleet.runs.snapshot(run.name)
    if not any(each.item_count for each in snapshot.totals):
        raise ExportError(f"{run.name} has no results to export", reason="NO_RESULTS")

    def read(task: str) -> Iterator[ItemResult]:
        return fleet.runs.results(run.name, task=task)

    return ExportedRun(snapshot, _suite(fleet, run.suite), _model(fleet, run.model), read, publisher)


def by_item(results: Iterable[ItemResult]) -> Iterator[list[ItemResult]]:
    """Yield the samples of each item together; they come one after another."""
    samples: list[ItemResult] = []
    for each in results:
        if samples and each.item != samples[0].item:
            yield samples
            samples = []
        samples.append(each)
    if samples:
        yield samples


def _suite(fleet: Fleet, name: str) -> Suite | None:
    try:
        return fleet.suites.get(name)
    except NotFoundError:
        return None


def _model(fleet: Fleet, name: str) -> Model | None:
    try:
        return fleet.models.get(name)
    except EvalFleetError:
        # What it adds is an engine's name: no reason to fail where the generation service is away.
        return None
