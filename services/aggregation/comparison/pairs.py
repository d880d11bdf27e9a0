"""The values of two runs' items, side by side, one pass."""

from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.answers import AnsweredItem, ItemValue, metrics_of, value_of

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Unsure:
    """What a pair's values may be where a failed item has none: at the lowest and at the highest."""

    base_lowest: float
    base_highest: float
    variant_lowest: float
    variant_highest: float


@dataclass(slots=True)
class MetricPairs:
    """One metric of one task; entries are in the order of the task's pairs, NaN where there is no value.

    Attributes:
        base: values of the base.
        variant: values of the variant.
        unsure: the pairs of which a value is not known for certain, by position.
        base_only: values of items that the variant has no value of.
        variant_only: values of items that the base has no value of.
    """

    base: "array[float]" = field(default_factory=lambda: array("d"))
    variant: "array[float]" = field(default_factory=lambda: array("d"))
    unsure: dict[int, Unsure] = field(default_factory=dict)
    base_only: "array[float]" = field(default_factory=lambda: array("d"))
    variant_only: "array[float]" = field(default_factory=lambda: array("d"))

    def put(self, position: int, base: ItemValue | None, variant: ItemValue | None) -> None:
        """Take the values of one pair of items."""
        for column in (self.base, self.variant):
            column.extend([_NAN] * (position - len(column)))
        values = [None if each is None else each.value for each in (base, variant)]
        self.base.append(_NAN if values[0] is None else values[0])
        self.variant.append(_NAN if values[1] is None else values[1])
        if values[1] is None and values[0] is not None:
            self.base_only.append(values[0])
        if values[0] is None and values[1] is not None:
            self.variant_only.append(values[1])
        if base is not None and variant is not None and not (base.is_known and variant.is_known):
            self.unsure[position] = Unsure(base.lowest, base.highest, variant.lowest, variant.highest)

    def columns(self, count: int) -> tuple[Values, Values]:
        """Return base and variant over ``count`` pairs."""
        padded = [np.full(count, np.nan), np.full(count, np.nan)]
        for target, column in zip(padded, (self.base, self.variant), strict=True):
            target[: len(column)] = np.frombuffer(column, dtype=np.float64)
        return padded[0], padded[1]


class TaskPairs:
    """Collects one task; about 40 bytes a pair and metric are held, no texts.

    Args:
        metrics: only these; None for all that come.
        cluster_column: which items belong together; empty: each is alone.
    """

    def __init__(self, metrics: frozenset[str] | None, cluster_column: str) -> None:
        self._wanted = metrics
        self._cluster_column = cluster_column
        self._cluster_numbers: dict[str, int] = {}
        self._clusters = array("q")
        self._draws = array("q")
        self._judges: tuple[dict[str, set[tuple[str, str]]], dict[str, set[tuple[str, str]]]] = ({}, {})
        self.metrics: dict[str, MetricPairs] = {}
        self.base_only_count = 0
        self.variant_only_count = 0
        self.other_prompt_count = 0

    @property
    def pair_count(self) -> int:
        """Items that both runs have."""
        return len(self._draws)

    @property
    def draws(self) -> Numbers:
        """Positions of the pairs in the variant's order."""
        return np.frombuffer(self._draws, dtype=np.int64) if self._draws else np.empty(0, np.int64)

    @property
    def clusters(self) -> Numbers:
        """The number of each pair's cluster, from 0; empty without a cluster column."""
        return np.frombuffer(self._clusters, dtype=np.int64) if self._clusters else np.empty(0, np.int64)

    @property
    def judges_differ(self) -> bool:
        """Whether a judge is another one in the other run, or the runs have none in common."""
        base, variant = self._judges
        shared = base.keys() & variant.keys()
        return any(base[name] != variant[name] for name in shared) or bool(base and variant and not shared)

    def take(self, base: AnsweredItem | None, variant: AnsweredItem | None) -> None:
        """Take one item; None where a run has no result of it."""
        for side, item in enumerate((base, variant)):
            for judge in item.judges() if item is not None else ():
                self._judges[side].setdefault(judge.name, set()).add((judge.version, judge.digest))
        found = {metric for item in (base, variant) if item is not None for metric in metrics_of(item)}
        # What is known already may have failed in both runs here; that is no reason to lose the pair.
        wanted = (found | self.metrics.keys()) if self._wanted is None else self._wanted
        if base is None or variant is None:
            self._take_single(base, variant, wanted)
            return
        self.other_prompt_count += base.prompt.content_key != variant.prompt.content_key
        position = self.pair_count
        for metric in wanted:
            values = value_of(base, metric), value_of(variant, metric)
            if values != (None, None):
                self.metrics.setdefault(metric, MetricPairs()).put(position, *values)
        self._draws.append(variant.draw_index)
        if self._cluster_column:
            self._clusters.append(self._cluster_of(variant.samples[0].observation.groups))

    def _take_single(self, base: AnsweredItem | None, variant: AnsweredItem | None, metrics: Collection[str]) -> None:
        item = base or variant
        assert item is not None
        self.base_only_count += base is not None
        self.variant_only_count += variant is not None
        for metric in metrics:
            value = value_of(item, metric)
            if value is not None and value.value is not None:
                pairs = self.metrics.setdefault(metric, MetricPairs())
                (pairs.base_only if base is not None else pairs.variant_only).append(value.value)

    def _cluster_of(self, groups: Mapping[str, str]) -> int:
        value = groups.get(self._cluster_column)
        # An item without a cluster is one of its own; names are texts that no value can have.
        name = f"\0{self.pair_count}" if value is None else value
        return self._cluster_numbers.setdefault(name, len(self._cluster_numbers))


class RunPairs:
    """Collects the tasks of two runs; a ``PairTaker``.

    Args:
        metrics: by task, which metrics; empty: all of all tasks.
        cluster_column: which items belong together; empty: each is alone.
    """

    def __init__(self, metrics: Mapping[str, frozenset[str]], cluster_column: str) -> None:
        self._wanted = metrics
        self._cluster_column = cluster_column
        self.tasks: dict[str, TaskPairs] = {}

    def take(self, base: AnsweredItem | None, variant: AnsweredItem | None) -> None:
        """Take one item; None where a run has no result of it."""
        item = base or variant
        assert item is not None
        task = item.key[0]
        if self._wanted and task not in self._wanted:
            return
        if task not in self.tasks:
            self.tasks[task] = TaskPairs(self._wanted.get(task), self._cluster_column)
        self.tasks[task].take(base, variant)
