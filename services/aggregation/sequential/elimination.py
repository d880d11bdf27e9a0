"""Which of several models are the best? Items are spent on those that may still be."""

import itertools
from typing import Final

import numpy as np

from services.aggregation.sequential.comparison import difference_scores
from services.aggregation.sequential.draws import Flags, Items, Values
from services.aggregation.sequential.evidence import Evidence, Terms, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.questions import DecisionState, GateRule

# Of difference scores whose predictions know nothing: models that differ on two items of five.
_VARIANCE: Final = 0.1


class SuccessiveElimination:
    """Drops a model as soon as as many others as are wanted are proven better than it.

    All models get the same items in one uniform order without replacement, and every pair's difference is tested as a
    gate (idea: Even-Dar, Mannor & Mansour, Journal of Machine Learning Research 7, 2006; here with anytime-valid paired
    tests). A model that belongs to the best k is dropped only if one that does not is wrongly proven better: k (M − k)
    statements can mislead, and each has an equal part of the error probability. That two outsiders are ranked wrongly
    among themselves does no harm, so it has no part in it.

    The same scores give the same answers, but they depend on where calls are cut: feed pieces of one length.

    Args:
        size: items in the list.
        models: number of them, at least 2.
        keep: how many are wanted, k, fewer than there are.
        alpha: largest probability that a model which belongs to the best is ever dropped.

    Attributes:
        active: which models are still in.
        dropped_after: items after which each was dropped; None for those that are in.
    """

    def __init__(self, size: int, models: int, *, keep: int = 1, alpha: float = 0.05) -> None:
        self._size, self._keep, self._count = size, keep, 0
        self.active: Flags = np.ones(models, dtype=np.bool_)
        self.dropped_after: list[int | None] = [None] * models
        level = alpha / (keep * (models - keep))
        # Ties are no wins: what passes is «at least as good», so a proof needs the other side to fail.
        rule = GateRule(0.5, false_pass=level, false_fail=level)
        self._pairs = {pair: _Pair(rule, size) for pair in itertools.combinations(range(models), 2)}
        self._better = np.zeros((models, models), dtype=np.bool_)
        # One half predicts every difference: items on which two models agree surprise nobody and cost next to nothing.
        self._terms = terms_of(
            np.arange(size),
            np.zeros(size, np.bool_),
            np.full(size, 0.5),
            np.ones(size),
            np.full(size, _VARIANCE),
        )

    @property
    def is_settled(self) -> bool:
        """Whether no more models than wanted are left."""
        return int(self.active.sum()) <= self._keep

    @property
    def is_done(self) -> bool:
        """Whether no more models than wanted are left, or no items."""
        return self.is_settled or self._count == self._size

    @property
    def count(self) -> int:
        """Items seen."""
        return self._count

    def is_proven_better(self, one: int, other: int) -> bool:
        """Say whether one model is proven to be at least as good as another, and not only by both being alike."""
        return bool(self._better[one, other])

    def observe(self, low: Values, high: Values | None = None) -> Flags:
        """Take the scores of the next items in draw order and return which models are still in.

        Args:
            low: [models, items], from 0 to 1, the lowest that failed items may have had; those of dropped models are
                not read.
            high: the same with the highest; None if nothing failed.
        """
        count = low.shape[1]
        high = low if high is None else high
        terms = self._terms.part(slice(self._count, self._count + count))
        for (a, b), pair in self._pairs.items():
            if not (self.active[a] and self.active[b]) or pair.gate.is_decided:
                continue
            state = pair.observe(difference_scores(high[a], low[b]), difference_scores(low[a], high[b]), terms)
            if state is DecisionState.PASSED:
                self._better[b, a] = True
            elif state is DecisionState.FAILED:
                self._better[a, b] = True
        self._count += count
        self._drop()
        return self.active.copy()

    def standing(self) -> Items:
        """Return for each model how many others are proven better."""
        return np.asarray(self._better.sum(axis=0), dtype=np.int64)

    def _drop(self) -> None:
        better = self.standing()
        wanted = np.argsort(better, kind="stable")[: self._keep]
        dropped = better >= self._keep
        # Whoever is dropped is beaten by as many as are wanted, so these are never all dropped themselves.
        dropped[wanted] = False
        for each in np.flatnonzero(self.active & dropped).tolist():
            self.dropped_after[each] = self._count
        self.active &= ~dropped


class _Pair:
    """One pair's difference, with the lowest and with the highest scores: one and the same while all are known."""

    def __init__(self, rule: GateRule, size: int) -> None:
        self.gate = Gate(rule, size)
        self._worst = self._best = Evidence(size)

    def observe(self, worst: Values, best: Values, terms: Terms) -> DecisionState:
        if self._best is self._worst and not np.array_equal(worst, best):
            self._best = self._worst.copy()
        lowest = self._worst.observe(worst, terms)
        highest = lowest if self._best is self._worst else self._best.observe(best, terms)
        self.gate.update(lowest, highest)
        return self.gate.decision.state
