"""One list of items: draws them batch by batch, takes their scores in draw order, answers questions of their mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.aggregation.sequential.batches import Batch, Singles, doubles, singles
from services.aggregation.sequential.draws import Draws, ExponentialRace, Flags, Values
from services.aggregation.sequential.evidence import Evidence, Increments, Terms, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.interval import PlannedEstimate, Range
from services.aggregation.sequential.questions import Decision, GateRule, PrecisionRule, Question, RareRule
from services.aggregation.sequential.rare import RareGate

_FIRST_BATCH: Final = 32
_GROWTH: Final = 0.3
_HALF_WIDTH: Final = 0.02
_UNKNOWN: Final = 0.5
_MOST_PENDING: Final = 4096


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of the list's mean.

    Attributes:
        observed: draws whose scores are in.
        size: items in the list.
        estimate: the mean, draws weighted by their precision; exact once all are in.
        lower: of the range that holds the mean at all times at once with probability 1 − alpha.
        upper: of that range.
        alpha: its error probability.
        planned_half_width: half the width of the range for one planned look, around the estimate: not certified.
    """

    observed: int
    size: int
    estimate: float
    lower: float
    upper: float
    alpha: float
    planned_half_width: float


class SequentialTask:
    """Decides questions of the mean of a list from as few of its items as the evidence allows.

    Nothing but its arguments, the batches' arrays and the scores in draw order enter: made again from these it is the
    same to the last bit, however the scores are cut into calls.

    Args:
        size: items in the list, at least 1.
        seed: of the draw order; independent of the seeds by which history was drawn.
        questions: to be answered.
        whole_scores: every score is 0 or 1.
        alpha: of the range in the summary if no question asks for one.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        questions: Sequence[Question] = (),
        *,
        whole_scores: bool = False,
        alpha: float = 0.05,
    ) -> None:
        self.size = size
        self._race = ExponentialRace(size, seed)
        self._terms: list[Terms] = []
        self._handed = self._planned = 0
        self._worst = self._best = Evidence(size)
        self._planned_estimate = PlannedEstimate()
        self._questions = tuple(questions)
        self._whole_scores = whole_scores
        self._alpha = next((each.alpha for each in questions if isinstance(each, PrecisionRule)), alpha)
        self._answers = [self._answer(each) for each in questions]
        ranges = [each for each in self._answers if isinstance(each, Range)]
        self._pending: list[tuple[Increments, Increments]] = []
        self._range = ranges[0] if ranges else Range(PrecisionRule(_HALF_WIDTH, alpha), size)

    @property
    def drawn(self) -> int:
        """Draws handed out."""
        return self._handed

    @property
    def observed(self) -> int:
        """Draws whose scores are in."""
        return self._worst.count

    @property
    def left(self) -> Flags:
        """Which items are in no batch yet; a copy."""
        return self._race.left

    @property
    def needs_batch(self) -> bool:
        """Whether the batches are handed out and items are left."""
        return self._handed == self._planned < self.size

    @property
    def is_exhausted(self) -> bool:
        """Whether all items are drawn."""
        return self._handed == self.size

    @property
    def is_decided(self) -> bool:
        """Whether all questions are answered."""
        return all(each.is_decided for each in self._answers)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The answers so far, one a question."""
        return tuple(each.decision for each in self._answers)

    def begin_batch(
        self,
        predictions: Singles | Values | None = None,
        weights: Singles | Values | None = None,
        *,
        variances: Singles | Values | None = None,
        count: int | None = None,
    ) -> Batch:
        """Draw the next batch; results of the one before may still be out.

        Args:
            predictions: of all items' scores, from 0 to 1, made from completed draws and history; None for none.
            weights: of all items for the draws, above 0; None for uniform draws.
            variances: of all items around their predictions; None for f (1 − f).
            count: draws; by default 30 % of those so far, at least 32.

        Raises:
            ValueError: draws of the batch before are not handed out, or numbers are not as said.
        """
        if self._handed != self._planned:
            raise ValueError("the batch before is not handed out")
        if weights is not None and any(isinstance(each, RareRule) for each in self._questions):
            raise ValueError("whether violations are rare is decided by uniform draws")
        batch = Batch(
            self._planned,
            min(count or max(_FIRST_BATCH, round(_GROWTH * self._planned)), self.size - self._planned),
            singles(predictions, self.size),
            singles(weights, self.size),
            singles(variances, self.size),
        )
        expected = doubles(batch.predictions, self.size, _UNKNOWN)
        if not ((expected >= 0) & (expected <= 1)).all():
            raise ValueError("predictions must be from 0 to 1")
        around = expected * (1 - expected) if batch.variances is None else doubles(batch.variances, self.size, 0.0)
        if not ((around >= 0) & np.isfinite(around)).all():
            raise ValueError("variances must be finite and not below 0")
        speeds = doubles(batch.weights, self.size, 1.0)
        items = self._race.draw(speeds, batch.count)
        self._terms.append(terms_of(items, self._race.left, expected, speeds, around))
        self._planned += len(items)
        return batch

    def next_draws(self, count: int) -> Draws:
        """Return up to ``count`` draws of the present batch."""
        first = self._handed
        terms = self._terms[-1] if self._terms else None
        if terms is None or first == self._planned:
            return Draws(first, np.empty(0, np.int64), np.empty(0))
        start = len(terms.items) - (self._planned - first)
        part = terms.part(slice(start, start + count))
        self._handed += len(part.items)
        return Draws(first, part.items, part.probabilities)

    def observe(self, worst: Values, best: Values | None = None) -> tuple[Decision, ...]:
        """Take the scores of the next draws, in draw order, and return the answers so far.

        Args:
            worst: scores, from 0 to 1; the lowest that failed items may have had.
            best: the same with the highest; None if nothing failed.

        Raises:
            ValueError: scores are outside their range, not whole as promised, or of draws that are not handed out.
        """
        self._check(worst, worst)
        if best is not None:
            self._check(worst, best)
        if self.observed + len(worst) > self._handed:
            raise ValueError("scores of draws that are not handed out")
        if best is not None and self._best is self._worst and not np.array_equal(worst, best):
            self._best = self._worst.copy()
        start = 0
        while start < len(worst):
            terms = self._terms_from(self.observed, len(worst) - start)
            rows = slice(start, start + len(terms.items))
            self._take(terms, worst[rows], worst[rows] if best is None else best[rows])
            start = rows.stop
        return self.decisions

    def summary(self) -> Summary:
        """Return what is known of the mean."""
        is_exact = self.observed == self.size and self._best is self._worst
        known = self._planned_estimate
        value = self._worst.seen_sum / self.size if is_exact else known.value
        half_width = 0.0 if is_exact else known.half_width(self._alpha)
        self._settle()
        lower, upper = self._range.ends
        return Summary(self.observed, self.size, value, lower, upper, self._alpha, half_width)

    def claimed_range(self) -> tuple[float, float]:
        """Return the ranges of all times, intersected: it holds the mean if none of them ever missed it."""
        self._settle()
        return self._range.claimed

    def expected_remaining(self) -> int:
        """Return roughly how many more draws the answers take, at most all that are left."""
        left = self.size - self.observed
        if self.is_decided:
            return 0
        known = self._planned_estimate
        variance = self.observed / known.known if known.known else _UNKNOWN**2
        more = max(each.expected_more(known.value, variance) for each in self._answers if not each.is_decided)
        # Evidence of a finite list grows faster towards its end.
        return min(left, math.ceil(more / (1 + more / max(1, left))))

    def _answer(self, question: Question) -> "Gate | Range | RareGate":
        if isinstance(question, GateRule):
            return Gate(question, self.size, whole_scores=self._whole_scores)
        return RareGate(question, self.size) if isinstance(question, RareRule) else Range(question, self.size)

    def _check(self, worst: Values, best: Values) -> None:
        if len(worst) != len(best) or not ((worst >= 0) & (best >= worst) & (best <= 1)).all():
            raise ValueError("scores must be from 0 to 1, the worst not above the best")
        if self._whole_scores and not np.isin(best, (0.0, 1.0)).all():
            raise ValueError("scores must be 0 or 1, as promised")

    def _terms_from(self, count: int, most: int) -> Terms:
        """Return the terms of the next draws, up to the end of their batch."""
        before = 0
        for terms in self._terms:
            if count < before + len(terms.items):
                return terms.part(slice(count - before, count - before + most))
            before += len(terms.items)
        raise ValueError("no batch holds this draw")

    def _take(self, terms: Terms, worst: Values, best: Values) -> None:
        lowest = self._worst.observe(worst, terms)
        highest = lowest if self._best is self._worst else self._best.observe(best, terms)
        self._planned_estimate.update(_between(lowest, highest))
        for answer in self._answers:
            if isinstance(answer, RareGate):
                answer.update(worst, best)
            else:
                answer.update(lowest, highest)
        if not any(each is self._range for each in self._answers):
            # Nobody may ever ask for it.
            self._pending.append((lowest, highest))
            if sum(len(each.values) for each, _ in self._pending) >= _MOST_PENDING:
                self._settle()

    def _settle(self) -> None:
        for lowest, highest in self._pending:
            self._range.update(lowest, highest)
        self._pending.clear()


def _between(lowest: Increments, highest: Increments) -> Increments:
    """Return the middle of two readings of the same draws."""
    if lowest is highest:
        return lowest
    return replace(
        lowest,
        values=(lowest.values + highest.values) / 2,
        variance=(lowest.variance + highest.variance) / 2,
    )
