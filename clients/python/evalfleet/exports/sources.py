"""What is exported: a run that has ended, with its figures, and its items read when they are wanted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from evalfleet.errors import EvalFleetError, NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.item_results import ItemResult
from evalfleet.names import short_name
from evalfleet.results import Estimate, Model, Run, RunSnapshot, Suite, Task, TaskTotals


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
        known_as_lower: metrics of which less is better, for what the suite does not say.
    """

    snapshot: RunSnapshot
    suite: Suite | None
    model: Model | None
    read: Callable[[str], Iterator[ItemResult]]
    publisher: Publisher = Publisher()
    known_as_lower: frozenset[str] = frozenset()

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
        """Whether less of a metric is better: by the suite, or else by the scorers that have one of that name."""
        described = self.task(task)
        said = described.lower_is_better(metric) if described is not None else None
        return metric in self.known_as_lower if said is None else said


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

    suite = _suite(fleet, run.suite)
    known = _known_as_lower(fleet) if not _says_all(suite, snapshot) else frozenset()
    return ExportedRun(snapshot, suite, _model(fleet, run.model), read, publisher, known)


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


def _says_all(suite: Suite | None, snapshot: RunSnapshot) -> bool:
    """Whether a suite says of every metric of a run which way it is better: it may have changed since, or be gone."""
    tasks = {each.name: each for each in suite.tasks} if suite else {}
    return all(
        each.task in tasks and tasks[each.task].lower_is_better(each.metric) is not None for each in snapshot.estimates
    )


def _known_as_lower(fleet: Fleet) -> frozenset[str]:
    try:
        scorers = fleet.scoring.scorers()
    except EvalFleetError:
        return frozenset()
    return frozenset(metric.name for each in scorers for metric in each.metrics if not metric.higher_is_better)


def _model(fleet: Fleet, name: str) -> Model | None:
    try:
        return fleet.models.get(name)
    except EvalFleetError:
        # What it adds is an engine's name: no reason to fail where the generation service is away.
        return None
