"""Estimates of a run, from its results in the order of their keys, one pass, without holding the results."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType

from services.aggregation.corrected_rates import CorrectedRate, GuardQuality, corrected_rate
from services.aggregation.intervals import Interval, interval_of, mean_of, standard_error_of
from services.aggregation.item_values import ItemValues
from services.aggregation.measures.passes import PassRates, pass_rates
from services.aggregation.records import Cost, Failed, Observation, Scored

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
        failed_count: items of which a sample failed.
        failed_counted: failed items that are counted in ``value``.
        value_scored_only: mean over the items' scored samples alone; ``None`` if there are none.
        sample_count: samples behind ``value``.
        corrected: for the errors of the guard that counted it; ``None`` where nobody said how good that guard is, or
            an item is neither 0 nor 1.
        passes: how the items do over several samples; empty where they have one each, where a sample is neither 0 nor
            1, and for groups.
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
    """The values of one metric in one group, one entry an item.

    Attributes:
        passes: number of items by (successes, samples); of items with one sample there are none.
        is_binary: every sample so far was 0 or 1.
    """

    counted: ItemValues = field(default_factory=ItemValues)
    scored_only: ItemValues = field(default_factory=ItemValues)
    scored_count: int = 0
    failed_counted: int = 0
    sample_count: int = 0
    passes: Counter[tuple[int, int]] = field(default_factory=Counter)
    is_binary: bool = True

    def note_samples(self, values: Sequence[float]) -> None:
        """Count the successes of an item's samples."""
        if len(values) > 1 and self.is_binary:
            self.is_binary = all(value in (0.0, 1.0) for value in values)
            self.passes[round(sum(values)), len(values)] += 1


class TaskTally:
    """Collects one task's items; what is held grows with their different values, not with the items."""

    def __init__(self, task: str) -> None:
        self.totals = TaskTotals(task)
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._failed_by_group: Counter[str] = Counter()
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
            self._failed_by_group.update(groups)
        self._add_values(samples, groups, has_failed=failure is not None)

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
                if cell is not None or self._failed_by_group[group]:
                    estimate = self._estimate(metric, group, cell or _Cell(), confidence_level)
                    quality = qualities.get(metric)
                    if quality is not None and cell is not None:
                        estimate = replace(estimate, corrected=_corrected(cell.scored_only, quality, confidence_level))
                    yield estimate

    def _estimate(self, metric: str, group: str, cell: _Cell, confidence_level: float) -> Estimate:
        return Estimate(
            task=self.totals.task,
            metric=metric,
            group=group,
            value=mean_of(cell.counted) if cell.counted else None,
            interval=interval_of(cell.counted, confidence_level),
            standard_error=standard_error_of(cell.counted),
            scored_count=cell.scored_count,
            failed_count=self._failed_by_group[group],
            failed_counted=cell.failed_counted,
            value_scored_only=mean_of(cell.scored_only) if cell.scored_only else None,
            sample_count=cell.sample_count,
            passes=pass_rates(cell.passes, confidence_level) if cell.is_binary and group == ALL_ITEMS else (),
        )

    def _add_values(self, samples: Sequence[Observation], groups: Sequence[str], *, has_failed: bool) -> None:
        scored: dict[str, list[float]] = {}
        counted_failures: dict[str, list[float]] = {}
        for sample in samples:
            if isinstance(sample.outcome, Scored):
                for metric, value in sample.outcome.metrics.items():
                    scored.setdefault(metric, []).append(value)
            else:
                for metric, value in (sample.outcome.counted_as or {}).items():
                    counted_failures.setdefault(metric, []).append(value)
        for metric in scored.keys() | counted_failures.keys():
            self._metrics.add(metric)
            scored_values = scored.get(metric, [])
            counted = scored_values + counted_failures.get(metric, [])
            item_value = mean_of(counted)
            item_value_scored = mean_of(scored_values) if scored_values else None
            for group in groups:
                cell = self._cells.get((metric, group)) or self._cells.setdefault((metric, group), _Cell())
                cell.counted.add(item_value)
                cell.sample_count += len(counted)
                if group == ALL_ITEMS:
                    cell.note_samples(counted)
                cell.failed_counted += has_failed
                cell.scored_count += not has_failed
                if item_value_scored is not None:
                    cell.scored_only.add(item_value_scored)


def _corrected(values: ItemValues, quality: GuardQuality, confidence_level: float) -> CorrectedRate | None:
    if not values or not values.is_binary:
        return None
    return corrected_rate(round(sum(values)), len(values), quality, confidence_level)


class RunTally:
    """Collects a run's observations, handed over in pieces in the order of their keys."""

    def __init__(self) -> None:
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

    def _add_item(self, samples: Sequence[Observation]) -> None:
        task = samples[0].key.task
        if task not in self._tallies:
            self._tallies[task] = TaskTally(task)
        self._tallies[task].add_item(samples)
