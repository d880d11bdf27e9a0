"""Follows every metric over a sequence of runs, one a checkpoint, and says where it became worse."""

import asyncio
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.answers import Answer, AnsweredItem, metrics_of, value_of
from services.aggregation.comparison.reading import AnswerSource
from services.aggregation.errors import RunDeletedError
from services.aggregation.sequential.regressions import RegressionWatch, Suspicion, alarm_threshold

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

_MOST_LOST_ITEMS: Final = 100
_NAN: Final = float("nan")


@dataclass(frozen=True, slots=True, order=True)
class WatchedMetric:
    """A metric to watch."""

    task: str
    metric: str
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One metric at one checkpoint; ``skipped_reason`` says why it could not be watched, if so."""

    run_index: int
    value: float | None = None
    item_count: int = 0
    lost_count: int = 0
    gained_count: int = 0
    log_evidence: float | None = None
    log_threshold: float | None = None
    skipped_reason: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A task that became worse; ``change_index`` is the first run that is likely to be worse."""

    watched: WatchedMetric
    run_index: int
    change_index: int
    suspicion: Suspicion
    log_threshold: float
    lost_items: tuple[str, ...]
    lost_count: int
    gained_count: int


@dataclass(frozen=True, slots=True)
class Regressions:
    """What was found, and every metric's way."""

    alarms: tuple[Alarm, ...]
    series: Mapping[WatchedMetric, Sequence[Point]]


async def check_regressions(
    source: AnswerSource,
    runs: Sequence[str],
    metrics: Sequence[WatchedMetric],
    *,
    tolerance: float,
    false_alarm_rate: float,
) -> Regressions:
    """Look for regressions along runs in the order of training.

    Args:
        source: of the answers.
        runs: one a checkpoint.
        metrics: what is watched; empty: every metric of the first run that has results.
        tolerance: drops of up to this much are none.
        false_alarm_rate: largest probability of any false alarm.

    Raises:
        NotFoundError: a run has no results.
    """
    sequence = _Sequence(metrics, tolerance, false_alarm_rate)
    tasks = {each.task for each in metrics}
    only = next(iter(tasks)) if len(tasks) == 1 else None
    for index, run in enumerate(runs):
        try:
            checkpoint = await _read(source, run, only, sequence)
        except RunDeletedError:
            sequence.skip(index, "RESULTS_DELETED")
        else:
            await asyncio.to_thread(sequence.observe, index, checkpoint)
    alarms = sorted(sequence.alarms, key=lambda each: (each.run_index, each.watched))
    return Regressions(tuple(alarms), {each: sequence.series[each] for each in sorted(sequence.series)})


async def _read(source: AnswerSource, run: str, only: str | None, sequence: "_Sequence") -> "_Checkpoint":
    checkpoint = _Checkpoint(sequence)
    async with aclosing(source.answers(run, only)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(checkpoint.add, piece)
    await asyncio.to_thread(checkpoint.finish)
    for task, count in checkpoint.item_counts.items():
        order = await source.order(run, task)
        if order is not None and not order.is_uniform and count < order.size:
            checkpoint.partly_drawn_tasks.add(task)
    return checkpoint


@dataclass(slots=True)
class _ItemList:
    """The items of one task that any checkpoint had so far: number by id, and what each was asked."""

    numbers: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    ranks: "array[int]" = field(default_factory=lambda: array("Q"))
    prompts: list[bytes] = field(default_factory=list)
    judges: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def number_of(self, item: str, prompt: bytes) -> int:
        """Return an item's number; a new item gets the next."""
        number = self.numbers.setdefault(item, len(self.names))
        if number == len(self.names):
            self.names.append(item)
            self.prompts.append(prompt)
            # Its place in an order that has nothing to do with what it asks.
            self.ranks.append(int.from_bytes(_digest(f"order\0{item}"), "big"))
        return number

    def order(self) -> Numbers:
        """Return the items' numbers in that order."""
        return np.argsort(np.frombuffer(self.ranks, dtype=np.uint64), kind="stable")


class _Sequence:
    """All checkpoints so far."""

    def __init__(self, metrics: Sequence[WatchedMetric], tolerance: float, false_alarm_rate: float) -> None:
        self.wanted = tuple(metrics)
        self.items: dict[str, _ItemList] = {}
        self.series: dict[WatchedMetric, list[Point]] = {each: [] for each in metrics}
        self.alarms: list[Alarm] = []
        self._tolerance = tolerance
        self._false_alarm_rate = false_alarm_rate
        self._watches: dict[WatchedMetric, RegressionWatch] = {}
        self._latest: dict[WatchedMetric, Values] = {}
        # Checkpoints that a watch has taken, by their position among the runs.
        self._taken: dict[WatchedMetric, list[int]] = {}
        self._skipped: list[Point] = []

    def observe(self, index: int, checkpoint: "_Checkpoint") -> None:
        """Take the next checkpoint, read to its end."""
        if not self.wanted:
            self.wanted = tuple(sorted(WatchedMetric(task, metric) for task, metric in checkpoint.columns))
            self.series = {each: list(self._skipped) for each in self.wanted}
        for watched in self.wanted:
            point = self._observe(index, watched, checkpoint)
            self.series[watched].append(point)

    def skip(self, index: int, reason: str) -> None:
        """Note that a checkpoint has nothing to watch."""
        self._skipped.append(Point(index, skipped_reason=reason))
        for points in self.series.values():
            points.append(self._skipped[-1])

    def _observe(self, index: int, watched: WatchedMetric, checkpoint: "_Checkpoint") -> Point:
        column = checkpoint.columns.get((watched.task, watched.metric))
        if column is None:
            return Point(index, skipped_reason="NO_VALUES")
        values = np.frombuffer(column, dtype=np.float64).copy()
        known = values[np.isfinite(values)]
        plain = Point(index, float(known.mean()) if len(known) else None, len(known))
        reason = _reason_to_skip(known, watched.task, checkpoint)
        if reason:
            return Point(index, plain.value, plain.item_count, skipped_reason=reason)
        scores = 1 - values if watched.lower_is_better else values
        lost, gained = _moved(self._latest.get(watched), scores)
        self._latest[watched] = scores
        self._taken.setdefault(watched, []).append(index)
        watch = self._watches.setdefault(watched, RegressionWatch(self._tolerance))
        suspicion = watch.observe(scores, self.items[watched.task].order())
        if suspicion is None:
            return Point(index, plain.value, plain.item_count, lost, gained)
        threshold = alarm_threshold(index, self._false_alarm_rate, len(self.wanted))
        if suspicion.log_evidence >= threshold:
            self._alarm(index, watched, suspicion, threshold)
        return Point(index, plain.value, plain.item_count, lost, gained, suspicion.log_evidence, threshold)

    def _alarm(self, index: int, watched: WatchedMetric, suspicion: Suspicion, threshold: float) -> None:
        watch = self._watches[watched]
        before, after = watch.scores_around_change(suspicion.after_count)
        drops = np.nan_to_num(before - after)
        names = self.items[watched.task].names
        worst = np.argsort(-drops, kind="stable")[:_MOST_LOST_ITEMS]
        self.alarms.append(
            Alarm(
                watched=watched,
                run_index=index,
                change_index=self._taken[watched][-suspicion.after_count],
                suspicion=suspicion,
                log_threshold=threshold,
                lost_items=tuple(names[each] for each in worst.tolist() if drops[each] > 0),
                lost_count=int((drops > 0).sum()),
                gained_count=int((drops < 0).sum()),
            )
        )
        watch.restart(suspicion.after_count)


class _Checkpoint:
    """One run in the reading.

    Attributes:
        columns: by task and metric, the values by item number, NaN where there is none.
        item_counts: items with a result, by task.
        partly_drawn_tasks: where some items were drawn more readily than others, and not all are in.
    """

    def __init__(self, sequence: _Sequence) -> None:
        self.columns: dict[tuple[str, str], array[float]] = {}
        self.tasks_with_other_prompts: set[str] = set()
        self.tasks_with_other_judges: set[str] = set()
        self.partly_drawn_tasks: set[str] = set()
        self.item_counts: Counter[str] = Counter()
        self._judges: dict[str, dict[str, set[tuple[str, str]]]] = {}
        self._sequence = sequence
        self._metrics: dict[str, set[str]] = {}
        for each in sequence.wanted:
            self._metrics.setdefault(each.task, set()).add(each.metric)
        self._unfinished: list[Answer] = []

    def add(self, answers: Iterable[Answer]) -> None:
        """Take the next piece; a piece may end in the middle of an item."""
        pending = [*self._unfinished, *answers]
        groups = [tuple(samples) for _, samples in groupby(pending, key=lambda each: each.item_key)]
        self._unfinished = list(groups.pop()) if groups else []
        for samples in groups:
            self._take(AnsweredItem(samples))

    def finish(self) -> None:
        """Take the last item and compare the judges with the first checkpoint's."""
        if self._unfinished:
            self._take(AnsweredItem(tuple(self._unfinished)))
            self._unfinished = []
        for task, judges in self._judges.items():
            known = self._sequence.items[task].judges
            if any(known.setdefault(name, found) != found for name, found in judges.items()):
                self.tasks_with_other_judges.add(task)

    def _take(self, item: AnsweredItem) -> None:
        task, name = item.key
        wanted = self._metrics.get(task, set()) if self._sequence.wanted else metrics_of(item)
        if not wanted:
            return
        self.item_counts[task] += 1
        items = self._sequence.items.setdefault(task, _ItemList())
        prompt = _digest(repr(item.prompt.content_key))
        number = items.number_of(name, prompt)
        if items.prompts[number] != prompt:
            self.tasks_with_other_prompts.add(task)
        for judge in item.judges():
            self._judges.setdefault(task, {}).setdefault(judge.name, set()).add((judge.version, judge.digest))
        for metric in wanted:
            value = value_of(item, metric)
            if value is not None and value.value is not None:
                column = self.columns.setdefault((task, metric), array("d"))
                column.extend([_NAN] * (len(items.names) - len(column)))
                column[number] = value.value


def _reason_to_skip(known: Values, task: str, checkpoint: _Checkpoint) -> str:
    if task in checkpoint.tasks_with_other_prompts:
        return "PROMPTS_DIFFER"
    if task in checkpoint.tasks_with_other_judges:
        return "JUDGES_DIFFER"
    if task in checkpoint.partly_drawn_tasks:
        return "PARTIAL_DRAW"
    if len(known) and (known.min() < 0 or known.max() > 1):
        return "VALUES_OUT_OF_RANGE"
    return ""


def _moved(before: Values | None, after: Values) -> tuple[int, int]:
    """Return how many items became worse and better."""
    if before is None:
        return 0, 0
    size = min(len(before), len(after))
    return int((after[:size] < before[:size]).sum()), int((after[:size] > before[:size]).sum())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
