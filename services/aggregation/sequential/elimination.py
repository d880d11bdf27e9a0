"""Which of several models are the best? Items are spent on those that may still be."""

import itertools
from typing import Final

import numpy as np

from services.aggregation.sequential.comparison import difference_scores
from services.aggregation.sequential.draws import Flags, Items, Values
from services.aggregation.sequential.evidence import Evidence, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.questions import DecisionState, GateRule

# Of difference scores whose predictions know nothing: models that differ on two items of five.
_VARIANCE: Final = 0.1


class SuccessiveElimination:
    """Drops a model as soon as as many others as are wanted are proven better than it.

    All models get the same items in one uniform order without replacement, and every pair's difference is tested as a
    gate. Only one side of a pair can be wrong, so each of the M (M − 1) / 2 pairs has an equal part of the error
    probability (idea: Even-Dar, Mannor & Mansour, Journal of Machine Learning Research 7, 2006; here with
    anytime-valid paired tests).

    Args:
        size: items in the list.
        models: number of them, at least 2.
        keep: how many are wanted.
        alpha: largest probability that any pair is ever judged wrongly.
    """

    def __init__(self, size: int, models: int, *, keep: int = 1, alpha: float = 0.05) -> None:
        self._size, self._keep, self._count = size, keep, 0
        self.active: Flags = np.ones(models, dtype=np.bool_)
        level = alpha / (models * (models - 1) / 2)
        # Ties are no wins: what passes is «at least as good», so a proof needs the other side to fail.
        rule = GateRule(0.5, false_pass=level, false_fail=level)
        self._pairs = {pair: (Evidence(size), Gate(rule, size)) for pair in itertools.combinations(range(models), 2)}
        self._better = np.zeros((models, models), dtype=np.bool_)

    @property
    def is_done(self) -> bool:
        """Whether no more models than wanted are left, or no items."""
        return int(self.active.sum()) <= self._keep or self._count == self._size

    @property
    def count(self) -> int:
        """Items seen."""
        return self._count

    def is_proven_better(self, one: int, other: int) -> bool:
        """Say whether one model is proven to be at least as good as another, and not only by both being alike."""
        return bool(self._better[one, other])

    def observe(self, scores: Values) -> Flags:
        """Take the scores of the next items in draw order and return which models are still in.

        Args:
            scores: [models, items], from 0 to 1; those of dropped models are not read.
        """
        count = scores.shape[1]
        half = np.full(self._size, 0.5)
        rest = np.arange(self._size) >= self._count + count
        items: Items = np.arange(self._count, self._count + count)
        terms = terms_of(items, rest, half, np.ones(self._size), np.full(self._size, _VARIANCE))
        for (a, b), (evidence, gate) in self._pairs.items():
            if not (self.active[a] and self.active[b]) or gate.is_decided:
                continue
            increments = evidence.observe(difference_scores(scores[a], scores[b]), terms)
            gate.update(increments, increments)
            if gate.decision.state is DecisionState.PASSED:
                self._better[b, a] = True
            elif gate.decision.state is DecisionState.FAILED:
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
        self.active &= ~dropped
