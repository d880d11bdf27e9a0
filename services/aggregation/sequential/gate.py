"""Is the mean of the list on the right side of a threshold? Decided as early as the evidence allows."""

import math
from typing import Final

import numpy as np

from services.aggregation.sequential.betting import log_growth, log_mean_exp, running_sums
from services.aggregation.sequential.draws import Flags, Values
from services.aggregation.sequential.evidence import Increments
from services.aggregation.sequential.questions import Decision, DecisionState, Direction, GateRule

_GAPS: Final[Values] = np.geomspace(0.01, 0.2, 9)
_LOG_WEIGHTS: Final[Values] = np.full(len(_GAPS), -math.log(len(_GAPS)))
_ROUNDING: Final = 1e-9


class Gate:
    """One gate of one list.

    Two capitals, one that bets on a mean above the threshold and one that bets on a mean below; each is spread over
    assumed gaps between the mean and the threshold.

    Args:
        rule: what it asks.
        size: items in the list.
        whole_scores: every score is 0 or 1, so that no mean lies between two multiples of 1/N.
    """

    def __init__(self, rule: GateRule, size: int, *, whole_scores: bool = False) -> None:
        self._wants_more = rule.direction is Direction.AT_LEAST
        self._size = size
        wanted = rule.threshold * size
        self._least, self._most = wanted - _ROUNDING, wanted + _ROUNDING
        self._claim = rule.threshold
        if whole_scores:
            # A claim between two possible sums refutes the lower by the same evidence as the upper.
            half = math.ceil(self._least) - 0.5 if self._wants_more else math.floor(self._most) + 0.5
            self._claim = half / size
        levels = (rule.false_pass, rule.false_fail) if self._wants_more else (rule.false_fail, rule.false_pass)
        self._needed_above, self._needed_below = -math.log(levels[0]), -math.log(levels[1])
        self._above, self._below = np.zeros(len(_GAPS)), np.zeros(len(_GAPS))
        self._decided: tuple[DecisionState, int, bool] | None = None

    @property
    def decision(self) -> Decision:
        """The answer so far."""
        above = float(log_mean_exp(self._above, _LOG_WEIGHTS))
        below = float(log_mean_exp(self._below, _LOG_WEIGHTS))
        state, after, is_exact = self._decided or (DecisionState.UNDECIDED, None, False)
        passing, failing = (above, below) if self._wants_more else (below, above)
        return Decision(state, after, passing, failing, is_exact)

    @property
    def state(self) -> DecisionState:
        """The state of the answer alone."""
        return DecisionState.UNDECIDED if self._decided is None else self._decided[0]

    @property
    def is_decided(self) -> bool:
        """Whether it has passed or failed."""
        return self._decided is not None

    def expected_more(self, mean: float, variance: float) -> float:
        """Return roughly how many more draws the answer takes if the mean is this and a draw tells 1 / ``variance``."""
        gap = max(abs(mean - self._claim), float(_GAPS[0]) / 2)
        is_above = mean > self._claim
        capitals, needed = (self._above, self._needed_above) if is_above else (self._below, self._needed_below)
        return max(1.0, 2 * (needed - float(log_mean_exp(capitals, _LOG_WEIGHTS))) * variance / gap**2)

    def update(self, worst: Increments, best: Increments) -> None:
        """Take the increments of the next draws, in draw order; a decision, once made, stays.

        Args:
            worst: with the lowest scores that failed items may have had.
            best: with the highest.
        """
        if self.is_decided or not len(worst.values):
            return
        claim = self._claim
        growth_above = log_growth(worst.values - claim, claim - worst.low, worst.variance, _GAPS)
        growth_below = log_growth(claim - best.values, best.high - claim, best.variance, _GAPS)
        above, below = running_sums(self._above, growth_above), running_sums(self._below, growth_below)
        surely_above, surely_below = self._certainties(worst, best)
        is_above = (log_mean_exp(above, _LOG_WEIGHTS) >= self._needed_above) | surely_above
        is_below = (log_mean_exp(below, _LOG_WEIGHTS) >= self._needed_below) | surely_below
        decided = np.flatnonzero(is_above | is_below)
        at = int(decided[0]) if len(decided) else len(above) - 1
        self._above, self._below = above[at], below[at]
        if len(decided):
            state = DecisionState.PASSED if bool(is_above[at]) == self._wants_more else DecisionState.FAILED
            self._decided = (state, int(worst.counts[at]), bool(surely_above[at] | surely_below[at]))

    def _certainties(self, worst: Increments, best: Increments) -> tuple[Flags, Flags]:
        """Return after which draws what is left cannot bring the mean below, or above, the threshold any more."""
        most = best.sums + self._size - best.counts
        if self._wants_more:
            return worst.sums >= self._least, most < self._least
        return worst.sums > self._most, most <= self._most
