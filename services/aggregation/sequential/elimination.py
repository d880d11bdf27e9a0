"""Which of several models are the best? Items are spent on those that may still be."""

import itertools
from typing import Final

import numpy as np

from services.aggregation.sequential.comparison import difference_scores
from services.aggregation.sequential.draws import Flags, Items, Values
from services.aggregation.sequential.evidence import Evidence, Terms, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.questions import DecisionState, Direction, GateRule

# Of difference scores whose predictions know nothing: models that differ on two items of five.
_VARIANCE: Final = 0.1


class SuccessiveElimination:
    """Drops a model as soon as as many others as are wanted are proven better than it.

    All models get the same items in one uniform order without replacement, and every pair's difference is tested as a
    gate (idea: Even-Dar, Mannor & Mansour, Journal of Machine Learning Research 7, 2006; here with anytime-valid paired
    tests). A model that belongs to the best k is dropped only if one that does not is wrongly proven better: k (M − k)
    statements can mislead, and each has an equal part of the error probability. That two outsiders are ranked wrongly
    among themselves does no harm, so it has no part in it.

    With a tolerance ε the race also ends when the k that lead are proven to be at most ε worse than each other model
    that is in: an ε-optimal subset in the (ε, δ)-PAC sense, with ``alpha`` for δ (of one model: Even-Dar et al., as
    above; of several: Kalyanakrishnan, Tewari, Auer & Stone, PAC subset selection in stochastic multi-armed bandits,
    ICML 2012). So every model that is named is at most ε worse than the k-th best. None is *dropped* because another is
    at most ε worse: that one might be dropped for a third, and ε would add up. These statements can mislead about the
    same k (M − k) pairs, so that they and the others have half of the error probability each.

    The same scores give the same answers, but they depend on where calls are cut: feed pieces of one length.

    Args:
        size: items in the list.
        models: number of them, at least 2.
        keep: how many are wanted, k, fewer than there are.
        alpha: largest probability that a model which belongs to the best is ever dropped, or that one is named which is
            worse than the k-th best by more than the tolerance.
        tolerance: ε, by which a model that is named may be worse than one that is not; 0: not at all.

    Attributes:
        active: which models are still in.
        dropped_after: items after which each was dropped; None for those that are in.
    """

    def __init__(self, size: int, models: int, *, keep: int = 1, alpha: float = 0.05, tolerance: float = 0.0) -> None:
        self._size, self._keep, self._count = size, keep, 0
        self.active: Flags = np.ones(models, dtype=np.bool_)
        self.dropped_after: list[int | None] = [None] * models
        level = alpha / (keep * (models - keep) * (2 if tolerance else 1))
        self._pairs = {pair: _Pair(size, level, tolerance) for pair in itertools.combinations(range(models), 2)}
        self._better = np.zeros((models, models), dtype=np.bool_)
        self._about_as_good = np.zeros((models, models), dtype=np.bool_)
        self._sums: Values = np.zeros(models)
        self._named: Flags | None = None
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
        """Whether it is known which models are wanted."""
        return self._named is not None

    @property
    def named(self) -> Flags:
        """Which models are the best, or within the tolerance of them; none before the race is settled."""
        return np.zeros_like(self.active) if self._named is None else self._named.copy()

    @property
    def is_done(self) -> bool:
        """Whether it is settled, or no items are left."""
        return self.is_settled or self._count == self._size

    @property
    def count(self) -> int:
        """Items seen."""
        return self._count

    def is_proven_better(self, one: int, other: int) -> bool:
        """Say whether one model is proven to be at least as good as another, and not only by both being alike."""
        return bool(self._better[one, other])

    def is_within_tolerance(self, one: int, other: int) -> bool:
        """Say whether one model is proven to be worse than another by no more than the tolerance, if at all."""
        return bool(self._about_as_good[one, other])

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
            if not (self.active[a] and self.active[b]) or pair.is_decided:
                continue
            pair.observe(difference_scores(high[a], low[b]), difference_scores(low[a], high[b]), terms)
            self._better[b, a], self._better[a, b] = pair.second_is_better, pair.first_is_better
            self._about_as_good[b, a], self._about_as_good[a, b] = pair.second_will_do, pair.first_will_do
        self._sums[self.active] += (low[self.active] + high[self.active]).sum(axis=1) / 2
        self._count += count
        self._drop()
        self._name()
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

    def _name(self) -> None:
        """Settle the race if the models that lead are the only ones left, or about as good as all others."""
        left = np.flatnonzero(self.active)
        leading = left[np.argsort(-self._sums[left], kind="stable")][: self._keep]
        others = np.setdiff1d(left, leading)
        if not self._about_as_good[np.ix_(leading, others)].all():
            return
        self._named = np.zeros_like(self.active)
        self._named[leading] = True


class _Pair:
    """One pair's difference, with the lowest and with the highest scores: one and the same while all are known."""

    def __init__(self, size: int, level: float, tolerance: float) -> None:
        # Ties are no wins: what passes is «at least as good», so a proof needs the other side to fail.
        self._gate = Gate(GateRule(0.5, false_pass=level, false_fail=level), size)
        at_least = GateRule(0.5 - tolerance / 2, Direction.AT_LEAST, level, level)
        at_most = GateRule(0.5 + tolerance / 2, Direction.AT_MOST, level, level)
        self._tolerant = [Gate(rule, size) for rule in (at_least, at_most)] if tolerance else []
        self._worst = self._best = Evidence(size)

    @property
    def is_decided(self) -> bool:
        return self._gate.is_decided

    @property
    def second_is_better(self) -> bool:
        return self._gate.state is DecisionState.PASSED

    @property
    def first_is_better(self) -> bool:
        return self._gate.state is DecisionState.FAILED

    @property
    def second_will_do(self) -> bool:
        return self.second_is_better or self._has_passed(0)

    @property
    def first_will_do(self) -> bool:
        return self.first_is_better or self._has_passed(1)

    def _has_passed(self, number: int) -> bool:
        return bool(self._tolerant) and self._tolerant[number].state is DecisionState.PASSED

    def observe(self, worst: Values, best: Values, terms: Terms) -> None:
        if self._best is self._worst and not np.array_equal(worst, best):
            self._best = self._worst.copy()
        lowest = self._worst.observe(worst, terms)
        highest = lowest if self._best is self._worst else self._best.observe(best, terms)
        for gate in (self._gate, *self._tolerant):
            gate.update(lowest, highest)
