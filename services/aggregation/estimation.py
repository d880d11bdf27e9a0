"""Estimates of a run, from its results in the order of their keys, one pass, without holding the results."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType

from services.aggregation.corrected_rates import CorrectedRate, GuardQuality
from services.aggregation.intervals import Interval
from services.aggregation.measures.passes import PassRates
from services.aggregation.measures.set_figures import ResampleBudget
from services.aggregation.metric_values import ItemSamples, MetricValues
from services.aggregation.records import Cost, Failed, Observation, Scored, unjudged_metrics
from services.aggregation.set_measures import SetMeasure, SetTally

ALL_ITEMS = ""
"""The group that every item belongs to."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of one metric of one task in one group.

    Attributes:
        group: ``column=value``, or ``ALL_ITEMS``.
        value: mean over the counted items; ``None`` if there are none.
        interval: of ``value``; ``None`` where no method has one.
        standard_error: of ``value``; ``None`` with fewer than two items.
        scored_count: items of which every sample was scored, with this metric.
        failed_count: items of which a sample failed, or failed in this metric.
        failed_counted: failed items that are counted in ``value``.
        value_scored_only: mean over the items' scored samples alone; ``None`` if there are none.
        sample_count: samples behind ``value``.
        corrected: for the errors of the guard that counted it; ``None`` where nobody said how good that guard is, or
            an item is neither 0 nor 1.
        passes: how the items do over several samples; empty where they have one each, where a sample is neither 0 nor
            1 or not judged, and for groups.
        unjudged_count: failed items of which some sample's value is not known, though the model answered; ``interval``
            holds whatever it is from 0 to 1.
        failures_by_reason: failed items by why this metric failed, or else their first sample that failed.
    """

    task: str
    metric: str
    group: str
    value: float | None
    interval: Interval | None
    standard_error: float | None
    scored_count: int
    failed_count: int
    failed_counted: int
    value_scored_only: float | None
    sample_count: int
    corrected: CorrectedRate | None = None
    passes: tuple[PassRates, ...] = ()
    unjudged_count: int = 0
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class TaskTotals:
    """Counts of items and what they cost together.

    Attributes:
        failures_by_reason: failed items by the reason of their first sample that failed.
    """

    task: str
    item_count: int = 0
    scored_count: int = 0
    failures_by_reason: Counter[str] = field(default_factory=Counter)
    truncated_count: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def failed_count(self) -> int:
        """Items of which a sample failed."""
        return self.item_count - self.scored_count


@dataclass(slots=True)
class _Cell:
    """The values of one metric in one group, and its failures.

    Attributes:
        extra_failures: by reason, failed items beyond those of the group, which are counted once for all metrics; below
            0 where an item failed for another reason than this metric.
    """

    values: MetricValues = field(default_factory=MetricValues)
    scored_count: int = 0
    failed_counted: int = 0
    extra_failures: Counter[str] = field(default_factory=Counter)

    def add(self, samples: ItemSamples, failure_reason: str | None, *, notes_passes: bool) -> None:
        """Take one item: its samples of this metric, and why it failed as a whole, if it did."""
        self.values.add(samples, notes_passes=notes_passes)
        if failure_reason is None and not samples.failure_reason:
            self.scored_count += 1
            return
        self.failed_counted += bool(samples.known)
        if samples.failure_reason:
            self.extra_failures[samples.failure_reason] += 1
            if failure_reason is not None:
                self.extra_failures[failure_reason] -= 1


class TaskTally:
    """Collects one task's items; what is held grows with their different values, not with the items."""

    def __init__(self, task: str) -> None:
        self.totals = TaskTotals(task)
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._failed_by_group: dict[str, Counter[str]] = {}
        self._groups: set[str] = {ALL_ITEMS}
        self._metrics: set[str] = set()

    def add_item(self, samples: Sequence[Observation]) -> None:
        """Count one item: all of its samples, at least one, in order."""
        groups = [ALL_ITEMS, *(f"{column}={value}" for column, value in samples[0].groups.items())]
        self._groups.update(groups)
        failure = next((each.outcome for each in samples if isinstance(each.outcome, Failed)), None)
        totals = self.totals
        totals.item_count += 1
        totals.truncated_count += any(each.is_truncated for each in samples)
        totals.cost = sum((each.cost for each in samples), totals.cost)
        if failure is None:
            totals.scored_count += 1
        else:
            totals.failures_by_reason[failure.reason] += 1
            for group in groups:
                self._failed_by_group.setdefault(group, Counter())[failure.reason] += 1
        reason = None if failure is None else failure.reason
        for metric, of_metric in _samples_by_metric(samples).items():
            self._metrics.add(metric)
            for group in groups:
                cell = self._cells.get((metric, group)) or self._cells.setdefault((metric, group), _Cell())
                cell.add(of_metric, reason, notes_passes=group == ALL_ITEMS)

    def has_scored(self, metric: str) -> bool:
        """Whether some item was scored by this metric."""
        cell = self._cells.get((metric, ALL_ITEMS))
        return cell is not None and cell.values.mean_scored_only is not None

    def estimates(
        self, confidence_level: float, qualities: Mapping[str, GuardQuality] = MappingProxyType({})
    ) -> Iterator[Estimate]:
        """Yield an estimate for each metric and group that has items, ordered by them.

        Args:
            confidence_level: of the intervals.
            qualities: by metric, the quality of the guard whose verdicts it counts.
        """
        for metric in sorted(self._metrics):
            for group in sorted(self._groups):
                cell = self._cells.get((metric, group))
                if cell is not None or group in self._failed_by_group:
                    estimate = self._estimate(metric, group, cell or _Cell(), confidence_level)
                    quality = qualities.get(metric)
                    if quality is not None and cell is not None:
                        estimate = replace(estimate, corrected=cell.values.corrected(quality, confidence_level))
                    yield estimate

    def _estimate(self, metric: str, group: str, cell: _Cell, confidence_level: float) -> Estimate:
        failures = Counter(self._failed_by_group.get(group, {}))
        failures.update(cell.extra_failures)
        values = cell.values
        return Estimate(
            task=self.totals.task,
            metric=metric,
            group=group,
            value=values.mean,
            interval=values.interval(confidence_level),
            standard_error=values.standard_error,
            scored_count=cell.scored_count,
            failed_count=failures.total(),
            failed_counted=cell.failed_counted,
            value_scored_only=values.mean_scored_only,
            sample_count=values.sample_count,
            passes=values.passes(confidence_level) if group == ALL_ITEMS else (),
            unjudged_count=values.unjudged_count,
            failures_by_reason=+failures,
        )


def _samples_by_metric(samples: Sequence[Observation]) -> dict[str, ItemSamples]:
    """Return what an item's samples say of each metric that they say anything of."""
    found: dict[str, ItemSamples] = {}

    def of(metric: str) -> ItemSamples:
        return found.get(metric) or found.setdefault(metric, ItemSamples())

    for sample in samples:
        outcome = sample.outcome
        if isinstance(outcome, Scored):
            for metric, value in outcome.metrics.items():
                of(metric).scored.append(value)
        else:
            for metric, value in outcome.counted.items():
                of(metric).counted.append(value)
        for failure in outcome.failures:
            for metric in failure.metrics:
                of(metric).failure_reason = of(metric).failure_reason or failure.reason
            if isinstance(outcome, Scored):
                for metric, value in failure.counted_as.items():
                    of(metric).counted.append(value)
        for metric in unjudged_metrics(outcome):
            of(metric).unknown_count += 1
    return found


class RunTally:
    """Collects a run's observations, handed over in pieces in the order of their keys.

    Args:
        with_sets: also what figures of whole sets need.
    """

    def __init__(self, *, with_sets: bool = False) -> None:
        self._sets: dict[str, SetTally] | None = {} if with_sets else None
        self._tallies: dict[str, TaskTally] = {}
        self._unfinished: list[Observation] = []

    def add(self, observations: Iterable[Observation]) -> None:
        """Take the next piece; a piece may end in the middle of an item."""
        pending = [*self._unfinished, *observations]
        items = [list(samples) for _, samples in groupby(pending, key=lambda each: (each.key.task, each.key.item))]
        self._unfinished = items.pop() if items else []
        for samples in items:
            self._add_item(samples)

    def finish(self) -> None:
        """Count the last item; nothing may be added afterwards."""
        if self._unfinished:
            self._add_item(self._unfinished)
            self._unfinished = []

    @property
    def tasks(self) -> list[TaskTally]:
        """The tasks, ordered by name."""
        return [self._tallies[task] for task in sorted(self._tallies)]

    def set_measures(self, confidence_level: float) -> Iterator[SetMeasure]:
        """Yield the figures of whole sets, task by task in the order of their names, and then those of groups.

        They share one budget of resampling: groups take some seconds however many there are, whole sets some tens of
        seconds at most.
        """
        budget = ResampleBudget()
        for of_groups in (False, True):
            for _, tally in sorted((self._sets or {}).items()):
                yield from tally.measures(confidence_level, budget, of_groups=of_groups)

    def _add_item(self, samples: Sequence[Observation]) -> None:
        task = samples[0].key.task
        if task not in self._tallies:
            self._tallies[task] = TaskTally(task)
        self._tallies[task].add_item(samples)
        if self._sets is not None:
            self._sets.setdefault(task, SetTally(task)).add_item(samples)
