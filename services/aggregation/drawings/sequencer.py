"""One drawing at work, in memory: its draws, the results that are in, and what they decide."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from services.aggregation.drawings.errors import DrawingDamagedError
from services.aggregation.drawings.orders import batch_digest
from services.aggregation.drawings.records import (
    Batch,
    Draw,
    Drawing,
    DrawnItems,
    DrawnScores,
    PastResults,
    TaskDecision,
)
from services.aggregation.drawings.scores import ItemScore, SampleOutcome, item_score, sample_score
from services.aggregation.sequential.history import History
from services.aggregation.sequential.predictions import Predictor
from services.aggregation.sequential.task import SequentialTask


@dataclass(frozen=True, slots=True)
class _Span:
    """What is kept of a batch."""

    first_draw_index: int
    end: int
    digest: str


class Sequencer:
    """Draws a drawing's items batch by batch, and counts results in the order of draws.

    Batch k is fitted on the results of exactly those draws that came before batch k − 1: all of these are in while
    batch k − 1 is still at work, and results that come later change nothing. So draws follow from the seed, the history
    and the results, never from timing: a restart, another replica or another pace gives the same ones, bit by bit.

    Not safe for several threads at once. After an exception from ``next_batch`` or ``replay``, make a new one.

    Args:
        drawing: as it is stored.
        past: its history; ``None``: uniform draws, in one batch.
    """

    def __init__(self, drawing: Drawing, past: PastResults | None) -> None:
        spec = drawing.spec
        self._drawing = drawing
        self._task = SequentialTask(
            size=len(drawing.item_ids),
            seed=drawing.order_seed,
            questions=spec.questions,
            whole_scores=spec.has_binary_scores,
            alpha=1 - spec.confidence_level,
        )
        self._predictor = (
            None
            if past is None
            else Predictor(History(past.scores, is_sequence=past.is_sequence, predicted=past.predicted))
        )
        self._batches: list[_Span] = []
        self._is_weighted = False
        self._positions: NDArray[np.int64] = np.empty(0, np.int64)
        self._probabilities: NDArray[np.float64] = np.empty(0)
        self._drawn_count = 0
        self._unknown_count = 0
        self._low, self._high = array("d"), array("d")
        self._samples: dict[str, dict[int, ItemScore]] = {}
        self._waiting: dict[str, ItemScore] = {}

    @property
    def batch_count(self) -> int:
        """Batches so far."""
        return len(self._batches)

    @property
    def draws_digest(self) -> str:
        """Commits to all draws so far: of the last batch, or of the order before there is one."""
        return self._batches[-1].digest if self._batches else self._drawing.order_digest

    @property
    def end(self) -> int:
        """Items in the batches so far."""
        return len(self._positions)

    @property
    def drawn_count(self) -> int:
        """Items handed out so far."""
        return self._drawn_count

    @property
    def completed_count(self) -> int:
        """The longest prefix of draws of which every item is in."""
        return len(self._low)

    @property
    def is_exhausted(self) -> bool:
        """Whether the batches so far hold every item."""
        return self.end == len(self._drawing.item_ids)

    @property
    def awaited_count(self) -> int:
        """How many draws' results the next batch is fitted on."""
        return self._batches[-1].first_draw_index if self._predictor and self._batches else 0

    @property
    def can_draw(self) -> bool:
        """Whether items are left, and the results are in that the next batch is fitted on."""
        return not self.is_exhausted and self.completed_count >= self.awaited_count

    def next_batch(self) -> Batch:
        """Draw the next batch; only if ``can_draw``."""
        predictor, known = self._predictor, self.awaited_count
        if predictor is None:
            begun = self._task.begin_batch(None, None, count=len(self._drawing.item_ids))
        else:
            if known:
                predictor.fit(self._positions[:known], self._middles(known))
            plan = predictor.plan(self._task.left)
            begun = self._task.begin_batch(plan.predictions, plan.weights, variances=plan.variances)
        drawn = self._task.next_draws(begun.count)
        batch = Batch(
            index=len(self._batches),
            first_draw_index=drawn.first_draw_index,
            positions=drawn.items,
            predictions=begun.predictions,
            weights=begun.weights,
            variances=begun.variances,
        )
        return self._keep(batch, drawn.probabilities)

    def replay(self, batch: Batch) -> None:
        """Take the next batch as it was stored.

        Raises:
            DrawingDamagedError: the order that follows from the drawing's seed is another.
        """
        self._task.begin_batch(
            batch.predictions,
            batch.weights,
            variances=batch.variances,
            count=len(batch.positions),
        )
        drawn = self._task.next_draws(len(batch.positions))
        if self._keep(replace(batch, positions=drawn.items), drawn.probabilities).digest != batch.digest:
            raise DrawingDamagedError(self._drawing.spec.run, self._drawing.spec.task, batch.index)

    def draws(self, first: int, count: int) -> DrawnItems:
        """Return up to ``count`` draws from ``first`` to the end of the batch that it belongs to, and hand them out."""
        index = max(0, bisect_right([each.first_draw_index for each in self._batches], first) - 1)
        last = min(first + count, self._batches[index].end) if self._batches else first
        ids = self._drawing.item_ids
        draws = tuple(
            Draw(position, ids[position], number, probability)
            for number, (position, probability) in enumerate(
                zip(self._positions[first:last].tolist(), self._probabilities[first:last].tolist(), strict=True), first
            )
        )
        self.hand_out(first + len(draws))
        is_last = self.is_exhausted and first + len(draws) == self.end
        awaited = None if draws or is_last else self.awaited_count
        return DrawnItems(draws, index, is_last, awaited, self.decision())

    def is_draw(self, item: str, draw_index: int) -> bool:
        """Whether an item has this place among the batches so far."""
        return 0 <= draw_index < self.end and self._drawing.item_ids[self._positions[draw_index]] == item

    def hand_out(self, count: int) -> None:
        """Note that the first ``count`` draws were handed out, here or by another replica."""
        self._drawn_count = max(self._drawn_count, min(count, self.end))

    def missing_items(self, most: int | None = None) -> list[str]:
        """Return the items, or the first few, that were handed out and are not known to be in, in draw order."""
        ids = self._drawing.item_ids
        drawn = (ids[position] for position in self._positions[self.completed_count : self._drawn_count].tolist())
        return list(islice((item for item in drawn if item not in self._waiting), most))

    def take(self, outcomes: Iterable[SampleOutcome]) -> None:
        """Take samples of items that are not counted yet, in any order; samples taken before change nothing."""
        spec = self._drawing.spec
        for outcome in outcomes:
            if not 0 <= outcome.sample < spec.samples:
                continue
            samples = self._samples.setdefault(outcome.item, {})
            samples.setdefault(outcome.sample, sample_score(outcome.metrics, spec.metric))
            if len(samples) == spec.samples:
                in_order = [samples[number] for number in range(spec.samples)]
                self._waiting.setdefault(outcome.item, item_score(in_order, is_binary=spec.has_binary_scores))
        self._advance()

    def decision(self) -> TaskDecision:
        """Return what is known now."""
        spec, summary = self._drawing.spec, self._task.summary()
        is_open = bool(spec.questions) and not self._task.is_decided and self.completed_count > 0
        return TaskDecision(
            spec=spec,
            questions=tuple(zip(spec.questions, self._task.decisions, strict=True)),
            is_decided=bool(spec.questions) and self._task.is_decided,
            lower=summary.lower,
            upper=summary.upper,
            value=summary.estimate if self.completed_count else None,
            completed_count=self.completed_count,
            drawn_count=self._drawn_count,
            item_count=len(self._drawing.item_ids),
            evaluated_count=self.completed_count + len(self._waiting),
            unknown_count=self._unknown_count,
            draws_digest=self.draws_digest,
            expected_remaining=self._task.expected_remaining() if is_open else None,
            is_weighted=self._is_weighted,
        )

    def scores(self) -> DrawnScores:
        """Return the scores of the completed prefix."""
        low, high = np.array(self._low), np.array(self._high)
        return DrawnScores(self.decision(), self._drawing.order_digest, low, high)

    def _middles(self, count: int) -> NDArray[np.float64]:
        return np.asarray((np.array(self._low[:count]) + np.array(self._high[:count])) / 2)

    def _advance(self) -> None:
        """Count what now continues the prefix."""
        ids, ready = self._drawing.item_ids, []
        for position in self._positions[self.completed_count : self._drawn_count].tolist():
            score = self._waiting.pop(ids[position], None)
            if score is None:
                break
            self._samples.pop(ids[position])
            ready.append(score)
        if not ready:
            return
        low, high = np.array([each.low for each in ready]), np.array([each.high for each in ready])
        self._task.observe(low, high)
        self._unknown_count += sum(not each.is_known for each in ready)
        self._low.extend(low.tolist())
        self._high.extend(high.tolist())

    def _keep(self, batch: Batch, probabilities: Sequence[float] | NDArray[np.float64]) -> Batch:
        signed = replace(batch, digest=batch_digest(self.draws_digest, batch))
        self._is_weighted |= batch.weights is not None
        self._batches.append(_Span(batch.first_draw_index, batch.end, signed.digest))
        self._positions = np.concatenate([self._positions, batch.positions])
        self._probabilities = np.concatenate([self._probabilities, np.asarray(probabilities)])
        return signed
