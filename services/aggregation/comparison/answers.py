"""What a comparison reads of a run's results, and how two runs' items are brought together."""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Protocol

from services.aggregation.records import Failed, Judge, Observation, unjudged_metrics
from services.aggregation.texts import StoredText

ItemKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One sample of one item of one run.

    Attributes:
        judges: as the ledger keeps them, JSON.
    """

    observation: Observation
    draw_index: int
    judges: str
    prompt: StoredText

    @property
    def item_key(self) -> ItemKey:
        """Task and item."""
        return self.observation.key.task, self.observation.key.item


@dataclass(frozen=True, slots=True)
class AnsweredItem:
    """All samples of one item of one run, at least one, in order."""

    samples: tuple[Answer, ...]

    @property
    def key(self) -> ItemKey:
        """Task and item."""
        return self.samples[0].item_key

    @property
    def draw_index(self) -> int:
        """Position in its run's order."""
        return self.samples[0].draw_index

    @property
    def prompt(self) -> StoredText:
        """What the model was asked, the first time."""
        return self.samples[0].prompt

    def judges(self) -> frozenset[Judge]:
        """Return the judges of the samples that were judged."""
        scored = [each.judges for each in self.samples if not isinstance(each.observation.outcome, Failed)]
        return frozenset().union(*(_judges(each) for each in scored))


@dataclass(frozen=True, slots=True)
class ItemValue:
    """What an item counts as in one metric.

    Attributes:
        value: mean over the samples with a value, failed ones at what the task counts them as; None if none has one.
        lowest: the mean if every sample without a value, failed or not judged, were 0.
        highest: the mean if every sample without a value were 1.
    """

    value: float | None
    lowest: float
    highest: float

    @property
    def is_known(self) -> bool:
        """Whether every sample has a value."""
        return self.value is not None and self.lowest == self.highest


def value_of(item: AnsweredItem, metric: str) -> ItemValue | None:
    """Return what an item counts as; None where it was judged and this metric was not about it."""
    known: list[float] = []
    unknown = 0
    for sample in item.samples:
        outcome = sample.observation.outcome
        values = outcome.counted
        if metric in values:
            known.append(values[metric])
        elif isinstance(outcome, Failed) or metric in unjudged_metrics(outcome):
            unknown += 1
    if not known and not unknown:
        return None
    total, count = sum(known), len(known) + unknown
    if not unknown:
        mean = total / count
        return ItemValue(mean, mean, mean)
    return ItemValue(total / len(known) if known else None, total / count, (total + unknown) / count)


def metrics_of(item: AnsweredItem) -> set[str]:
    """Return the metrics that an item has a value of."""
    found: set[str] = set()
    for sample in item.samples:
        found |= sample.observation.outcome.counted.keys()
    return found


class PairTaker(Protocol):
    """Takes items in the order of their keys."""

    def take(self, base: AnsweredItem | None, variant: AnsweredItem | None) -> None:
        """Take one item; None where a run has no result of it."""
        ...


class ItemMerge:
    """Brings two runs' items together in one pass, holding no more of either than one piece.

    Feed the side that ``is_behind`` names, until both are finished.

    Args:
        taker: gets the items.
    """

    def __init__(self, taker: PairTaker) -> None:
        self._taker = taker
        self._items: tuple[deque[AnsweredItem], deque[AnsweredItem]] = (deque(), deque())
        self._unfinished: list[list[Answer]] = [[], []]
        self._is_finished = [False, False]

    @property
    def is_behind(self) -> int | None:
        """The side to feed next, 0 for the base; None when both are finished."""
        open_sides = [side for side in (0, 1) if not self._is_finished[side]]
        # A side with whole items in hand is ahead: they wait for the other side's.
        return min(open_sides, key=lambda side: len(self._items[side]), default=None)

    def add(self, side: int, answers: Iterable[Answer]) -> None:
        """Take the next piece of a run, ordered by key; a piece may end in the middle of an item."""
        pending = [*self._unfinished[side], *answers]
        groups = [tuple(samples) for _, samples in groupby(pending, key=lambda each: each.item_key)]
        self._unfinished[side] = list(groups.pop()) if groups else []
        self._items[side].extend(AnsweredItem(samples) for samples in groups)
        self._hand_over()

    def finish(self, side: int) -> None:
        """Say that a run has no more."""
        if self._unfinished[side]:
            self._items[side].append(AnsweredItem(tuple(self._unfinished[side])))
            self._unfinished[side] = []
        self._is_finished[side] = True
        self._hand_over()

    def _hand_over(self) -> None:
        base, variant = self._items
        while (base or self._is_finished[0]) and (variant or self._is_finished[1]) and (base or variant):
            if not variant or (base and base[0].key < variant[0].key):
                self._taker.take(base.popleft(), None)
            elif not base or variant[0].key < base[0].key:
                self._taker.take(None, variant.popleft())
            else:
                self._taker.take(base.popleft(), variant.popleft())


@lru_cache(maxsize=1024)
def _judges(text: str) -> frozenset[Judge]:
    entries: Sequence[Sequence[str]] = json.loads(text)
    return frozenset(Judge(*each) for each in entries)
