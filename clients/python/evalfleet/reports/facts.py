"""What a report says, as plain values: gathered from a fleet once, drawn as a page or as figures."""

import enum
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from evalfleet.comparison_results import ComparedRuns, Regressions
from evalfleet.item_results import ItemResult
from evalfleet.names import short_name
from evalfleet.results import Estimate, Run, RunSnapshot, Suite, Task

_LAST_NUMBER = re.compile(r"(\d+)\D*$")
SAFETY_METRICS = ("unsafe", "refusal", "over_refusal")
"""Metrics that tasks of ours use for what guards and the refusal detector say."""
FIXED_COUNT_NOTE = (
    "Of a task of which a part was drawn only the interval of the metric that decides when it stops holds whenever one "
    "stops: those of its other metrics, of groups and of corrected rates are as if the number of its items had been "
    "fixed beforehand, and may hold less often."
)
"""What a section says of its intervals where any of them is of such a task."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run of the report.

    Attributes:
        label: the model's name, or where several runs have the same one, that and the run's.
        snapshot: the run with its estimates and totals.
        suite: ``None`` if the fleet knows it no more, which a run's results outlive.
    """

    label: str
    snapshot: RunSnapshot
    suite: Suite | None

    @property
    def run(self) -> Run:
        """The run."""
        return self.snapshot.run

    def task(self, name: str) -> Task | None:
        """Return what the suite says of a task; ``None`` if that is not known."""
        return next((each for each in self.suite.tasks if each.name == name), None) if self.suite else None

    def estimates(self, task: str) -> list[Estimate]:
        """Return a task's estimates for the whole of it, the primary metric's first, groups behind their metric."""
        described = self.task(task)
        primary = described.primary_metric if described else ""
        found = [for_the_task(each) for each in self.snapshot.estimates if each.task == task]
        return sorted(found, key=lambda each: (each.metric != primary, each.metric, each.group))

    def primary(self, task: str) -> Estimate | None:
        """Return the estimate of a task's primary metric; of its first one where the suite is not known."""
        return next((each for each in self.estimates(task) if not each.group), None)


class ItemOutcome(enum.StrEnum):
    """What became of an item, by its task's primary metric; SCORED where nobody knows which one that is."""

    FAILED = "failed"
    WRONG = "wrong"
    BETWEEN = "between"
    SCORED = "scored"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class ShownItem:
    """An item that is embedded; of its long texts ``cut_characters`` were left out, by field."""

    label: str
    result: ItemResult
    outcome: ItemOutcome
    cut_characters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """Two runs item by item; ``refusal`` says why that was not possible, if so."""

    base: str
    variant: str
    compared: ComparedRuns | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """All that a report says.

    Attributes:
        runs: in the order in which they were named, which is that of the training.
        pairs: the newest run against the one before it and against the first.
        regressions: of three runs and more; ``None`` where nobody looked, and ``regressions_refusal`` may say why.
        items: those that are embedded, the most remarkable first.
        item_total: outcomes of all runs; ``read_total`` of them were looked at to choose from.
        created: when this was gathered.
    """

    runs: tuple[RunFacts, ...]
    created: datetime
    pairs: tuple[ComparedPair, ...] = ()
    regressions: Regressions | None = None
    regressions_refusal: str = ""
    items: tuple[ShownItem, ...] = ()
    item_total: int = 0
    read_total: int = 0

    @property
    def newest(self) -> RunFacts:
        """The last run."""
        return self.runs[-1]

    @property
    def has_drawn_parts(self) -> bool:
        """Whether any task of a run was drawn and not all of its items are in."""
        return any(not each.is_exact for one in self.runs for each in one.run.decisions)

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, in the order in which the runs have them."""
        return tuple(dict.fromkeys(each.task for facts in self.runs for each in facts.run.tasks))

    def places(self) -> list[float]:
        """Return each run's place along the training: the number that its model's name ends with, or its rank."""
        found = [_LAST_NUMBER.search(short_name(each.run.model)) for each in self.runs]
        numbers = [float(match[1]) for match in found if match]
        if len(numbers) == len(found) and all(low < high for low, high in itertools.pairwise(numbers)):
            return numbers
        return [float(index) for index in range(len(found))]


def for_the_task(estimate: Estimate) -> Estimate:
    """Take the estimate for the whole task where its items were drawn: a plain mean favours those drawn first."""
    if estimate.task_value is None or estimate.task_interval is None:
        return estimate
    return replace(estimate, value=estimate.task_value, interval=estimate.task_interval)


def is_safety(estimate: Estimate) -> bool:
    """Whether a rate is about safety: a guard's, the refusal detector's, or one that is corrected for its judge."""
    return estimate.metric in SAFETY_METRICS or estimate.corrected is not None


def limits_of(estimate: Estimate) -> tuple[float, float] | None:
    """Return the ends of an estimate's interval."""
    return (estimate.interval.lower, estimate.interval.upper) if estimate.interval else None


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run that no other of them has."""
    models = [short_name(each.model) for each in runs]
    return [
        model if models.count(model) == 1 else f"{model} ({short_name(run.name)})"
        for model, run in zip(models, runs, strict=True)
    ]


def levels_of(estimates: Iterable[Estimate]) -> set[float]:
    """Return the confidence levels of the estimates' intervals."""
    return {each.interval.confidence_level for each in estimates if each.interval}
