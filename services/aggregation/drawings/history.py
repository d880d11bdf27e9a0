"""What earlier runs tell about a drawing's items."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.drawings.records import DrawingSpec, PastResults
from services.aggregation.drawings.scores import SampleOutcome
from services.aggregation.drawings.store import DrawingStore, EarlierDrawing, Prediction

_MOST_RUNS: Final = 48
# Of 8 bytes each, and twice that while they are put together: 48 runs of 160,000 items, 8 of a million.
_MOST_SCORES: Final = 8_000_000
# Predictions of runs further back say little, and are large.
_MOST_PREDICTED: Final = 6


@dataclass(frozen=True, slots=True)
class _Source:
    """A run whose results of a task are read; ``drawing_id`` if it has a drawing of the same data."""

    run: str
    task: str
    drawing_id: int | None


async def gather(
    store: DrawingStore, spec: DrawingSpec, item_ids: Sequence[str], order_seed: int
) -> PastResults | None:
    """Collect the scores of earlier runs as they are now; ``None`` if there are none, or none are wanted.

    A run with the order of an earlier one (the same model and seed) gets that one's history, and so draws the same
    items. Newer results may follow from runs that the earlier one steered, and so from the very draws that are
    repeated.
    """
    if spec.is_uniform:
        return None
    earlier = await store.earlier(spec)
    same = next((each for each in earlier if each.order_seed == order_seed), None)
    if same is not None:
        drawing = await store.find(same.run, same.task)
        return None if drawing is None else await store.history(drawing)
    sources = (await _sources(store, spec, earlier))[-max(1, min(_MOST_RUNS, _MOST_SCORES // len(item_ids))) :]
    positions = await asyncio.to_thread(_positions, item_ids)
    rows: list[tuple[_Source, NDArray[np.float64]]] = []
    for source in sources:
        scores = await _scores_of(store, source, spec, positions)
        if np.isfinite(scores).any():
            rows.append((source, scores))
    if not rows:
        return None
    predicted: NDArray[np.float64] | None = None
    for index in range(max(0, len(rows) - _MOST_PREDICTED), len(rows)):
        source, scores = rows[index]
        found = None if source.drawing_id is None else await store.last_prediction(source.drawing_id)
        values = None if found is None else np.where(np.isfinite(scores), np.nan, _aligned(found, positions))
        if values is not None and np.isfinite(values).any():
            predicted = np.full((len(rows), len(item_ids)), np.nan) if predicted is None else predicted
            predicted[index] = values
    return PastResults(
        runs=tuple(source.run for source, _ in rows),
        scores=np.stack([scores for _, scores in rows]),
        predicted=predicted,
        is_sequence=rows[-1][0].run == spec.previous_run,
    )


async def _sources(store: DrawingStore, spec: DrawingSpec, earlier: Sequence[EarlierDrawing]) -> list[_Source]:
    """Return the runs to read, oldest first, the previous one last."""
    drawn = {each.run: _Source(each.run, each.task, each.drawing_id) for each in earlier}
    named = [each for each in (*spec.history_runs, spec.previous_run) if each and each != spec.run]
    known = await store.known_runs(named)
    vouched = {run: _Source(run, spec.task, None) for run in named if run in known and run not in drawn}
    sources = vouched | drawn
    if previous := sources.pop(spec.previous_run, None):
        sources[previous.run] = previous
    return list(sources.values())


async def _scores_of(
    store: DrawingStore, source: _Source, spec: DrawingSpec, positions: Mapping[str, int]
) -> NDArray[np.float64]:
    """Return each item's mean over the samples that have a score, NaN without any."""
    sums, counts = np.zeros(len(positions)), np.zeros(len(positions))
    async with aclosing(store.all_outcomes(source.run, source.task)) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(_add, piece, spec.metric, positions, sums, counts)
    return np.divide(sums, counts, out=np.full(len(positions), np.nan), where=counts > 0)


def _positions(item_ids: Sequence[str]) -> dict[str, int]:
    return {item: position for position, item in enumerate(item_ids)}


def _add(
    piece: Sequence[SampleOutcome],
    metric: str,
    positions: Mapping[str, int],
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> None:
    for outcome in piece:
        position, value = positions.get(outcome.item), outcome.metrics.get(metric)
        if position is not None and value is not None and 0 <= value <= 1:
            sums[position] += value
            counts[position] += 1


def _aligned(found: Prediction, positions: Mapping[str, int]) -> NDArray[np.float64]:
    scores = np.full(len(positions), np.nan)
    for item, value in zip(found.item_ids, found.scores.tolist(), strict=True):
        if item in positions:
            scores[positions[item]] = value
    return scores
