"""Judges runs on the longest prefix of their common order that all of those still in the running have."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.draw_orders import uniform_order
from services.aggregation.comparison.margins import MarginRule, Verdict, decide
from services.aggregation.drawings.records import DrawnScores
from services.aggregation.intervals import Interval
from services.aggregation.rankings.errors import OrdersDifferError
from services.aggregation.sequential.elimination import SuccessiveElimination
from services.runtime.database import unbroken

Values = NDArray[np.float64]

# Models are dropped at multiples of so many items, so that who is dropped when does not depend on who asks when.
_BLOCK: Final = 16
_MOST_RACES: Final = 16


class Standing(Enum):
    """What is known of a run; see ``Standing`` in ranking.proto."""

    CONTENDING = "contending"
    TOP = "top"
    OUT = "out"
    NOT_INFERIOR = "not_inferior"
    INFERIOR = "inferior"
    BASE = "base"
    TIED = "tied"


@dataclass(frozen=True, slots=True)
class RankQuestion:
    """What is asked; exactly one of ``top`` and ``margin`` is not None.

    Attributes:
        runs: their names; with a margin the first is the base.
        top: how many of the best are wanted.
        margin: how much worse than the base each other may be.
        tolerance: how much worse than others the named may be; 0 with a margin.
    """

    runs: tuple[str, ...]
    task: str
    top: int | None
    margin: float | None
    lower_is_better: bool
    confidence_level: float
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A run beside the others; ``drawn`` has its own interval and estimate."""

    drawn: DrawnScores
    standing: Standing
    decided_after: int | None = None
    difference: Interval | None = None


@dataclass(frozen=True, slots=True)
class RankedRuns:
    """What the runs decide, in the order of the question."""

    runs: tuple[RankedRun, ...]
    compared_count: int
    item_count: int
    is_decided: bool


class ScoreSource(Protocol):
    """Gives the scores of a run's draws."""

    async def scores(self, run: str, task: str) -> DrawnScores:
        """Return the scores of the completed prefix of draws; raises NotFoundError for a task without a drawing."""
        ...


@dataclass(slots=True)
class _Race:
    race: SuccessiveElimination
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RankingDesk:
    """Answers questions about runs from what the ledger has now.

    Races are kept in memory, so that asking again costs what came since. Results never change, so what is kept never
    becomes wrong, and made again from the ledger it is the same.

    Args:
        source: of the scores.
    """

    def __init__(self, source: ScoreSource) -> None:
        self._source = source
        self._races: OrderedDict[RankQuestion, _Race] = OrderedDict()

    async def judge(self, question: RankQuestion) -> RankedRuns:
        """Say what the runs decide.

        Raises:
            NotFoundError: a run has no drawing of the task.
            OrdersDifferError: the runs do not draw the same items in the same order.
        """
        drawn = [await self._source.scores(run, question.task) for run in question.runs]
        _check_orders(drawn)
        if question.margin is not None:
            return await asyncio.to_thread(_judged_by_margin, question, drawn)
        kept = self._races.get(question)
        if kept is None:
            race = SuccessiveElimination(
                drawn[0].item_count,
                len(drawn),
                keep=question.top or 1,
                alpha=1 - question.confidence_level,
                tolerance=question.tolerance,
            )
            kept = self._races.setdefault(question, _Race(race))
        self._races.move_to_end(question)
        if len(self._races) > _MOST_RACES:
            self._races.popitem(last=False)
        # A thread goes on when its caller is cancelled; with the lock free, another one would feed the race meanwhile.
        return await unbroken(self._judge_race(question, kept, drawn))

    async def _judge_race(self, question: RankQuestion, kept: _Race, drawn: Sequence[DrawnScores]) -> RankedRuns:
        async with kept.lock:
            try:
                await asyncio.to_thread(_advance, kept.race, drawn, lower_is_better=question.lower_is_better)
            except Exception:  # whatever it was, the race may hold a part of a block; the ledger makes it again
                self._races.pop(question, None)
                raise
            return _standings(kept.race, drawn)


def _check_orders(drawn: Sequence[DrawnScores]) -> None:
    first = drawn[0].spec
    for each in drawn:
        spec = each.spec
        if not spec.is_uniform:
            raise OrdersDifferError(spec.run, spec.task, "history steers which items it draws first")
        if each.order_digest != drawn[0].order_digest:
            raise OrdersDifferError(spec.run, spec.task, f"it draws other items than {first.run}, or in another order")
        if (spec.metric, spec.data_digest, spec.samples) != (first.metric, first.data_digest, first.samples):
            raise OrdersDifferError(spec.run, spec.task, f"its scores mean something else than those of {first.run}")


def _advance(race: SuccessiveElimination, drawn: Sequence[DrawnScores], *, lower_is_better: bool) -> None:
    """Feed whole blocks that every run which is still in has completed."""
    while not race.is_done:
        first = race.count
        count = min(_BLOCK, drawn[0].item_count - first)
        if min(len(each.low) for each, is_in in zip(drawn, race.active, strict=True) if is_in) < first + count:
            return
        low, high = np.zeros((len(drawn), count)), np.zeros((len(drawn), count))
        for index in np.flatnonzero(race.active).tolist():
            part = slice(first, first + count)
            low[index], high[index] = _oriented(drawn[index], part, lower_is_better=lower_is_better)
        race.observe(low, high)


def _oriented(drawn: DrawnScores, part: slice, *, lower_is_better: bool) -> tuple[Values, Values]:
    """Return scores of which more is better, at the lowest and at the highest that is possible."""
    low, high = drawn.low[part], drawn.high[part]
    return (1 - high, 1 - low) if lower_is_better else (low, high)


def _standings(race: SuccessiveElimination, drawn: Sequence[DrawnScores]) -> RankedRuns:
    found = []
    states = zip(drawn, race.active.tolist(), race.named.tolist(), race.dropped_after, strict=True)
    for each, is_in, is_named, after in states:
        if not is_in:
            found.append(RankedRun(each, Standing.OUT, after))
        elif race.is_settled:
            found.append(RankedRun(each, Standing.TOP if is_named else Standing.TIED, race.count))
        else:
            found.append(RankedRun(each, Standing.CONTENDING))
    return RankedRuns(tuple(found), race.count, drawn[0].item_count, race.is_settled)


def _judged_by_margin(question: RankQuestion, drawn: Sequence[DrawnScores]) -> RankedRuns:
    """Judge each run against the first, on the items that both have."""
    alpha, size = 1 - question.confidence_level, drawn[0].item_count
    rule = MarginRule(question.margin or 0.0, alpha, alpha, question.confidence_level)
    found, longest = [], 0
    for variant in drawn[1:]:
        count = min(len(drawn[0].low), len(variant.low))
        longest, part = max(longest, count), slice(0, count)
        base_low, base_high = _oriented(drawn[0], part, lower_is_better=question.lower_is_better)
        low, high = _oriented(variant, part, lower_is_better=question.lower_is_better)
        outcome = decide(low - base_high, high - base_low, uniform_order(size, count), rule)
        interval = _plain(outcome.interval, question)
        found.append(RankedRun(variant, _STANDINGS[outcome.verdict], outcome.decided_after, interval))
    is_decided = all(each.standing is not Standing.CONTENDING for each in found)
    base = RankedRun(drawn[0], Standing.BASE if is_decided else Standing.CONTENDING)
    return RankedRuns((base, *found), longest, size, is_decided)


_STANDINGS: Final = {
    Verdict.UNDECIDED: Standing.CONTENDING,
    Verdict.NOT_INFERIOR: Standing.NOT_INFERIOR,
    Verdict.INFERIOR: Standing.INFERIOR,
}


def _plain(interval: Interval | None, question: RankQuestion) -> Interval | None:
    """Turn the interval of a difference of which more is better back into one of the metric."""
    if interval is None or not question.lower_is_better:
        return interval
    return Interval(-interval.upper, -interval.lower, interval.confidence_level, interval.method)
