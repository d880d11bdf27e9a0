"""Which items a report embeds: a bounded number, those that failed first, then the wrong ones, evenly over tasks."""

import dataclasses
import heapq
from collections.abc import Iterable, Iterator, Sequence

from evalfleet.item_results import ItemResult
from evalfleet.reports.facts import ItemOutcome, RunFacts, ShownItem

MOST_CHARACTERS = 8_000
"""Of one text that is embedded; the page says what it leaves out."""
_TEXTS = ("prompt", "output", "extracted_answer")
_ORDER = {each: index for index, each in enumerate(ItemOutcome)}
_Rank = tuple[int, int, str, int]


def outcome_of(result: ItemResult, facts: RunFacts) -> ItemOutcome:
    """Say what became of an item."""
    if result.failures:
        return ItemOutcome.FAILED
    task = facts.task(result.task)
    only_metric = next(iter(result.metrics)) if len(result.metrics) == 1 else ""
    value = result.value(task.primary_metric if task else only_metric)
    if value is None:
        return ItemOutcome.SCORED
    best, worst = (1.0, 0.0) if task is None or task.higher_is_better else (0.0, 1.0)
    if value == best:
        return ItemOutcome.RIGHT
    return ItemOutcome.WRONG if value == worst else ItemOutcome.BETWEEN


class ItemChoice:
    """Chooses among the results of one run while they are read; holds at most ``most`` items a task."""

    def __init__(self, facts: RunFacts, most: int) -> None:
        self._facts = facts
        self._most = most
        # The largest of each heap is the first to go: entries are negated.
        self._heaps: dict[str, list[tuple[_Rank, ShownItem]]] = {}
        self.read_count = 0

    def add(self, result: ItemResult) -> None:
        """Look at one result."""
        self.read_count += 1
        if not self._most:
            return
        outcome = outcome_of(result, self._facts)
        heap = self._heaps.setdefault(result.task, [])
        rank = (-_ORDER[outcome], -result.draw_index, result.item, -result.sample)
        if len(heap) == self._most and rank <= heap[0][0]:
            return
        entry = (rank, self._shown(result, outcome))
        if len(heap) < self._most:
            heapq.heappush(heap, entry)
        else:
            heapq.heapreplace(heap, entry)

    def chosen(self) -> list[ShownItem]:
        """Return the items, the tasks taking turns among those that are equally remarkable."""
        queues = [sorted(heap, key=lambda entry: entry[0], reverse=True) for heap in self._heaps.values()]
        ranked: list[tuple[int, int, int, ShownItem]] = [
            (-rank[0], turn, number, item)
            for number, queue in enumerate(queues)
            for turn, (rank, item) in enumerate(queue)
        ]
        return [item for *_, item in sorted(ranked, key=lambda entry: entry[:3])[: self._most]]

    def _shown(self, result: ItemResult, outcome: ItemOutcome) -> ShownItem:
        texts = {name: getattr(result, name) for name in _TEXTS}
        long = {name: text for name, text in texts.items() if text is not None and len(text) > MOST_CHARACTERS}
        if long:
            result = dataclasses.replace(result, **{name: text[:MOST_CHARACTERS] for name, text in long.items()})
        cut = {name: len(text) - MOST_CHARACTERS for name, text in long.items()}
        return ShownItem(self._facts.label, result, outcome, cut)


def shares_of(total: int, run_count: int) -> Sequence[int]:
    """Divide a number of items among runs, the newest getting what is left over."""
    each = total // run_count
    return [each] * (run_count - 1) + [total - each * (run_count - 1)]


def bounded(results: Iterable[ItemResult], most: int) -> Iterator[ItemResult]:
    """Yield up to ``most`` results, then stop reading."""
    for index, result in enumerate(results):
        if index == most:
            return
        yield result
