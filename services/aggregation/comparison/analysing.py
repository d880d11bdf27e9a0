"""Analyses the items of one task over several runs: difficulty, discrimination, and which look broken."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.answers import Answer, AnsweredItem, value_of
from services.aggregation.comparison.duplicates import DuplicateGroups, DuplicateSearch, ShingleCounts
from services.aggregation.comparison.errors import TooManyValuesError
from services.aggregation.comparison.reading import AnswerSource
from services.aggregation.errors import InvalidLedgerRequestError, RunDeletedError
from services.aggregation.measures.items import ItemAnalysis, analyse_items
from services.aggregation.texts import StoredText

Values = NDArray[np.float64]

MOST_VALUES: Final = 20_000_000
MOST_TEXTS: Final = 100_000
_PROMPT_END: Final = 200


@dataclass(frozen=True, slots=True)
class AnalysisRequest:
    """What is analysed.

    Attributes:
        runs: empty: the newest ``run_limit`` of the ledger that have the task.
        similarity: of two texts from which on they are near-duplicates.
    """

    task: str
    metric: str
    lower_is_better: bool = False
    runs: tuple[str, ...] = ()
    run_limit: int = 50
    similarity: float = 0.8


@dataclass(frozen=True, slots=True)
class UsedRun:
    """A run that took part; ``other_prompt_count`` of its items were asked otherwise and not used."""

    run: str
    model_digest: str
    item_count: int
    other_prompt_count: int


@dataclass(frozen=True, slots=True)
class SkippedRun:
    """A run that took no part, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnalyzedItems:
    """One entry an item, ordered by id; ``duplicates`` is None if there were too many texts.

    Attributes:
        prompt_ends: None where retention has removed the prompt.
    """

    items: Sequence[str]
    prompt_ends: Sequence[str | None]
    run_counts: Sequence[int]
    analysis: ItemAnalysis
    duplicates: DuplicateGroups | None
    runs: tuple[UsedRun, ...]
    skipped: tuple[SkippedRun, ...]


async def analyze_items(source: AnswerSource, request: AnalysisRequest) -> AnalyzedItems:
    """Analyse the items of the newest run from what all runs made of them.

    Raises:
        NotFoundError: a named run has no results.
        InvalidLedgerRequestError: the metric has values outside 0 to 1.
        TooManyValuesError: there are more results than fit.
    """
    runs, skipped = await _chosen(source, request)
    items = _Items()
    used: list[UsedRun] = []
    rows: list[Values] = []
    for run, digest in runs:
        row = _Row(items, request, is_newest=not rows)
        await _read(source.answers(run, request.task), row)
        if not row.item_count:
            skipped.append(SkippedRun(run, "NO_VALUES"))
            items = items if rows else _Items()
            continue
        used.append(UsedRun(run, digest, row.item_count, row.other_prompt_count))
        rows.append(row.values())
        if len(rows) * len(items.names) > MOST_VALUES:
            raise TooManyValuesError(len(runs) * len(items.names), MOST_VALUES)
    duplicates = await _duplicates(source, request, used, len(items.names))
    return await asyncio.to_thread(_analyzed, items, rows, duplicates, tuple(used), tuple(skipped))


async def _chosen(source: AnswerSource, request: AnalysisRequest) -> tuple[list[tuple[str, str]], list[SkippedRun]]:
    """Return the runs to use, newest first, each with its model's digest: one run a model."""
    names = request.runs or await source.newest_runs(request.task, request.run_limit)
    chosen: list[tuple[str, str]] = []
    skipped: list[SkippedRun] = []
    seen: set[str] = set()
    for run in names:
        try:
            digest = await source.model_digest(run, request.task)
        except RunDeletedError:
            skipped.append(SkippedRun(run, "RESULTS_DELETED"))
            continue
        if digest is None:
            skipped.append(SkippedRun(run, "NO_VALUES"))
        elif digest and digest in seen:
            # Twice the same answers would make items look as if they told models apart.
            skipped.append(SkippedRun(run, "SAME_MODEL"))
        else:
            seen.add(digest)
            chosen.append((run, digest))
    return chosen, skipped


class _Items:
    """The items of the newest run, in the order of their ids."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.prompts: list[bytes] = []
        self.prompt_ends: list[str | None] = []


class _Row:
    """One run in the reading; the newest one defines the items and what they ask."""

    def __init__(self, items: _Items, request: AnalysisRequest, *, is_newest: bool) -> None:
        self._items = items
        self._request = request
        self._is_newest = is_newest
        self._values: dict[int, float] = {}
        self.other_prompt_count = 0

    @property
    def item_count(self) -> int:
        """Items with a value."""
        return len(self._values)

    def take(self, item: AnsweredItem) -> None:
        """Take one item."""
        items = self._items
        prompt = _digest(repr(item.prompt.content_key))
        if self._is_newest:
            items.numbers[item.key[1]] = len(items.names)
            items.names.append(item.key[1])
            items.prompts.append(prompt)
            items.prompt_ends.append(None if item.prompt.is_pruned else item.prompt.read()[-_PROMPT_END:])
        number = items.numbers.get(item.key[1])
        if number is None:
            return
        if items.prompts[number] != prompt:
            self.other_prompt_count += 1
            return
        value = value_of(item, self._request.metric)
        if value is not None and value.value is not None:
            if not 0 <= value.value <= 1:
                raise InvalidLedgerRequestError("metric", f"has the value {value.value}; only shares can be analysed")
            self._values[number] = 1 - value.value if self._request.lower_is_better else value.value

    def values(self) -> Values:
        """Return the values by item number; NaN where there is none."""
        row = np.full(len(self._items.names), np.nan)
        row[np.fromiter(self._values.keys(), np.int64, len(self._values))] = np.fromiter(
            self._values.values(), np.float64, len(self._values)
        )
        return row


async def _read(pieces: AsyncGenerator[Sequence[Answer]], row: _Row) -> None:
    unfinished: list[Answer] = []
    async with aclosing(pieces):
        async for piece in pieces:
            unfinished = await asyncio.to_thread(_take_whole, row, [*unfinished, *piece])
    if unfinished:
        row.take(AnsweredItem(tuple(unfinished)))


def _take_whole(row: _Row, answers: Iterable[Answer]) -> list[Answer]:
    """Take all items but the last, whose samples may go on in the next piece; return that one's."""
    groups = [tuple(samples) for _, samples in groupby(answers, key=lambda each: each.item_key)]
    for samples in groups[:-1]:
        row.take(AnsweredItem(samples))
    return list(groups[-1]) if groups else []


async def _duplicates(
    source: AnswerSource, request: AnalysisRequest, used: Sequence[UsedRun], item_count: int
) -> DuplicateGroups | None:
    """Read the newest run's texts twice: what is common to most is known only at the end."""
    if not used or item_count > MOST_TEXTS:
        return None
    counts = ShingleCounts()
    search = DuplicateSearch(counts)
    for add in (counts.add, search.add):
        async with aclosing(source.answers(used[0].run, request.task)) as pieces:
            async for piece in pieces:
                texts = [each.prompt for each in piece if each.observation.key.sample == 0]
                await asyncio.to_thread(_add_all, add, texts)
    return await asyncio.to_thread(search.groups, request.similarity)


def _add_all(add: Callable[[str], None], texts: Sequence[StoredText]) -> None:
    for each in texts:
        add(each.read())


def _analyzed(
    items: _Items,
    rows: Sequence[Values],
    duplicates: DuplicateGroups | None,
    used: tuple[UsedRun, ...],
    skipped: tuple[SkippedRun, ...],
) -> AnalyzedItems:
    scores = np.stack(rows) if rows else np.full((1, len(items.names)), np.nan)
    empty = np.empty(0)
    flags = empty.astype(bool)
    return AnalyzedItems(
        items=items.names,
        prompt_ends=items.prompt_ends,
        run_counts=np.isfinite(scores).sum(axis=0).tolist(),
        analysis=analyse_items(scores) if items.names else ItemAnalysis(empty, empty, flags, flags, flags),
        duplicates=duplicates,
        runs=used,
        skipped=skipped,
    )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
