"""Is the share of violations below a small limit? Exact for scores 0 and 1 drawn uniformly."""

import math
from typing import Final

import numpy as np

from services.aggregation.sequential.betting import log_mean_exp, running_sums
from services.aggregation.sequential.draws import Values
from services.aggregation.sequential.questions import Decision, DecisionState, RareRule

_BELOW: Final[Values] = np.array([0.0, 0.05, 0.1, 0.25, 0.5])
_ABOVE: Final[Values] = np.array([1.5, 2.0, 4.0, 8.0])


class _Bets:
    """The capitals of bets that draws are violations with some probabilities, against a list with so many of them."""

    def __init__(self, claimed: int, size: int, chances: Values, *, fewer: bool) -> None:
        self._claimed, self._size, self._chances, self._fewer = claimed, size, chances, fewer
        self._count, self._sum = 0, 0
        self._capitals = np.zeros(len(chances))
        self._log_weights = np.full(len(chances), -math.log(len(chances)))

    def take(self, violations: Values) -> Values:
        """Return the capital's logarithm after each draw."""
        seen = self._sum + np.concatenate(([0], np.cumsum(violations)))
        left = self._size - self._count - np.arange(len(violations))
        expected = np.clip((self._claimed - seen[:-1]) / left, 0.0, 1.0)[:, None]
        chances = self._chances[None, :]
        chances = np.minimum(chances, expected) if self._fewer else np.clip(chances, expected, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            hit, missed = np.log(chances) - np.log(expected), np.log1p(-chances) - np.log1p(-expected)
        # What the claim rules out needs no bet: the counts decide by themselves.
        factors = np.where(
            violations[:, None] > 0, np.where(expected > 0, hit, 0.0), np.where(expected < 1, missed, 0.0)
        )
        capitals = running_sums(self._capitals, factors)
        self._count, self._sum = self._count + len(violations), int(seen[-1])
        self._capitals = capitals[-1]
        return log_mean_exp(capitals, self._log_weights)


class RareGate:
    """Compares the draws with what they would be like if the list held just as many violations as the limit forbids.

    While M − S of the N − s items that are left are violations, the next draw is one with probability m = (M − S) / (N
    − s). E = mean_k Π (p_k/m)^y ((1 − p_k)/(1 − m))^(1 − y) is a test supermartingale under every list with M
    violations or more if p_k ≤ m, with M or fewer if p_k ≥ m (Waudby-Smith & Ramdas, Confidence sequences for sampling
    without replacement, NeurIPS 2020; Stark, ALPHA, Annals of Applied Statistics 17, 2023).

    Args:
        rule: what is to be certified.
        size: items in the list.
    """

    def __init__(self, rule: RareRule, size: int) -> None:
        self._size = size
        # The fewest violations that are too many, and the most that are not.
        self._forbidden = max(0, math.ceil(rule.limit * size - 1e-9))
        self._needed_pass, self._needed_fail = -math.log(rule.false_pass), -math.log(rule.false_fail)
        self._certify = _Bets(self._forbidden, size, rule.limit * _BELOW, fewer=True)
        self._refute = _Bets(self._forbidden - 1, size, np.minimum(rule.limit * _ABOVE, 1.0), fewer=False)
        self._count, self._least, self._most = 0, 0.0, 0.0
        self._log_evidence = (0.0, 0.0)
        self._decided: tuple[DecisionState, int, bool] | None = None

    @property
    def decision(self) -> Decision:
        """The answer so far."""
        state, after, is_exact = self._decided or (DecisionState.UNDECIDED, None, False)
        return Decision(state, after, *self._log_evidence, is_exact)

    @property
    def is_decided(self) -> bool:
        """Whether it has passed or failed."""
        return self._decided is not None

    def expected_more(self, mean: float, variance: float) -> float:
        """Return roughly how many more draws certifying takes if no more violations come."""
        del mean, variance
        return max(1.0, (self._needed_pass - self._log_evidence[0]) * self._size / max(1, self._forbidden))

    def update(self, least: Values, most: Values) -> None:
        """Take whether the next draws are violations (1) or not (0), in draw order; a decision, once made, stays.

        Args:
            least: with 0 for failed items.
            most: with 1 for failed items.

        Raises:
            ValueError: a value is neither 0 nor 1.
        """
        if not (np.isin(least, (0.0, 1.0)).all() and np.isin(most, (0.0, 1.0)).all()):
            raise ValueError("violations must be 0 or 1")
        if self.is_decided or not len(least):
            return
        counts = self._count + 1 + np.arange(len(least))
        fewest, highest = self._least + np.cumsum(least), self._most + np.cumsum(most) + self._size - counts
        surely_passed, surely_failed = highest < self._forbidden, fewest >= self._forbidden
        certified, refuted = self._certify.take(most), self._refute.take(least)
        passed = (certified >= self._needed_pass) | surely_passed
        failed = (refuted >= self._needed_fail) | surely_failed
        decided = np.flatnonzero(passed | failed)
        at = int(decided[0]) if len(decided) else len(counts) - 1
        self._log_evidence = (float(certified[at]), float(refuted[at]))
        if len(decided):
            state = DecisionState.FAILED if failed[at] else DecisionState.PASSED
            self._decided = (state, int(counts[at]), bool(surely_passed[at] | surely_failed[at]))
        self._count = int(counts[-1])
        self._least, self._most = float(fewest[-1]), float(highest[-1]) - self._size + self._count
