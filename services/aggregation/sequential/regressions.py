"""Has a task become worse along a sequence of checkpoints? Alarms whose number of false ones is bounded for good."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

# How many checkpoints from an assumed change on are compared with how many before it.
_WINDOWS: Final = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16))
_LONGEST: Final = max(after + before for after, before in _WINDOWS)
_MOST_AT_STAKE: Final = 0.95
_GAP_SHARES: Final = ((0.01, 0.1), (0.02, 0.2), (0.04, 0.3), (0.08, 0.2), (0.16, 0.1), (0.32, 0.1))
_PSEUDO_ITEMS: Final = 10.0
_PRIOR_VARIANCE: Final = 0.05
_FEWEST_ITEMS: Final = 10


def alarm_threshold(checkpoint: int, false_alarm_rate: float, series_count: int = 1) -> float:
    """Return the logarithm of the evidence that an alarm needs at a checkpoint.

    The rate is spent as 6/π² · 1/k² over the checkpoints k = 1, 2, … for however long the training goes on, and in
    equal parts over the series that are watched at a checkpoint. Together no more than the whole is spent.

    Args:
        checkpoint: from 1 on: the first that has one before it.
        false_alarm_rate: largest probability of any false alarm ever.
        series_count: metrics that are watched at this checkpoint.
    """
    return math.log(math.pi**2 / 6 * checkpoint**2 * series_count / false_alarm_rate)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The evidence at one checkpoint that the scores fell by more than tolerated.

    Attributes:
        log_evidence: logarithm of the e-value.
        before_count: checkpoints before the likeliest change that were compared.
        after_count: checkpoints from it on.
        difference: mean from the change on − mean before it, over the items that all of them have.
        item_count: these items.
    """

    log_evidence: float
    before_count: int
    after_count: int
    difference: float
    item_count: int


def drop_evidence(differences: Values, tolerance: float) -> float:
    """Return the logarithm of an e-value against «the mean difference is at least −tolerance».

    The items are independent draws from questions of their kind. Bets that the next difference is below −tolerance,
    each sized by what the items before it showed, multiply a stake: Π (1 + λ_i (−tolerance − d_i));
    λ_i = g / (s_i² + g²) would be about the best if the drop were g more than tolerated, and stakes are spread over
    several g. The expected product is at most 1 if there is no such drop (Waudby-Smith & Ramdas, Estimating means of
    bounded random variables by betting, JRSS-B 86, 2024).

    Args:
        differences: of the items, from −1 to 1, in an order that has nothing to do with them.
        tolerance: from 0 to below 1.
    """
    won = -tolerance - differences
    squares = np.concatenate(([_PSEUDO_ITEMS * _PRIOR_VARIANCE], differences**2))
    # Before each item: the mean square of the differences so far.
    variances = np.cumsum(squares)[:-1] / (_PSEUDO_ITEMS + np.arange(len(differences)))
    most = _MOST_AT_STAKE / (1 + tolerance)
    logs = [
        math.log(share) + float(np.log1p(np.minimum(gap / (variances + gap * gap), most) * won).sum())
        for gap, share in _GAP_SHARES
    ]
    return float(np.logaddexp.reduce(logs))


class RegressionWatch:
    """Watches one metric over checkpoints, all evaluated on the same list of items.

    At every checkpoint the mean of the last w checkpoints is compared with that of the v before them, item by item, for
    some w and v: a single one finds a large drop at once, several find a small one or a slow decline, since what
    wobbles from checkpoint to checkpoint averages out. Each comparison is an e-value against «no checkpoint is worse
    than one before it by more than is tolerated». They share their items, so they depend on each other in unknown ways;
    their mean is an e-value all the same (Vovk & Wang, E-values: calibration, combination and applications, Annals of
    Statistics 49, 2021), and ``alarm_threshold`` bounds the probability that any mean ever reaches it by a union bound.

    Comparing several windows is the idea of e-detectors (Shin, Ramdas & Rinaldo, E-detectors: a nonparametric framework
    for sequential change detection, New England Journal of Statistics in Data Science 2, 2024). Those multiply evidence
    over time, which asks for new data at every step, while checkpoints meet the same items again.

    The last 24 checkpoints are held, 8 bytes an item.

    Args:
        tolerance: drops of up to this much are no regressions.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._past: deque[Values] = deque(maxlen=_LONGEST)
        self._known = 0

    def observe(self, scores: Values, order: Numbers) -> Suspicion | None:
        """Take the next checkpoint's scores; return what they make suspicious, None where nothing can be compared.

        Args:
            scores: by item number, from 0 to 1, better being more; NaN where there is none, also beyond its end.
            order: numbers of all items known so far, in an order that has nothing to do with their scores.

        Raises:
            ValueError: a score is outside [0, 1].
        """
        if (scores < 0).any() or (scores > 1).any():
            raise ValueError("scores must be from 0 to 1")
        self._past.append(scores)
        self._known += 1
        rows = [_padded(each, len(order))[order] for each in self._past]
        found = [
            each
            for after, before in _WINDOWS
            if after + before <= self._known and (each := self._compared(rows, after, before)) is not None
        ]
        if not found:
            return None
        # A window that cannot be compared counts as evidence of 0: leaving terms out of a mean keeps it an e-value.
        total = float(np.logaddexp.reduce([each.log_evidence for each in found])) - math.log(len(_WINDOWS))
        likeliest = max(found, key=lambda each: each.log_evidence)
        return replace(likeliest, log_evidence=total)

    def scores_around_change(self, after_count: int) -> tuple[Values, Values]:
        """Return the scores of the checkpoint before a change and of the first one from it on."""
        before, after = self._past[-after_count - 1], self._past[-after_count]
        size = max(len(before), len(after))
        return _padded(before, size), _padded(after, size)

    def restart(self, kept: int) -> None:
        """Compare with the last checkpoints alone from now on: after an alarm, those from the change on are normal."""
        self._known = min(kept, self._known)

    def _compared(self, rows: Sequence[Values], after: int, before: int) -> Suspicion | None:
        differences = np.mean(rows[-after:], axis=0) - np.mean(rows[-after - before : -after], axis=0)
        differences = differences[np.isfinite(differences)]
        if len(differences) < _FEWEST_ITEMS:
            return None
        evidence = drop_evidence(differences, self._tolerance)
        return Suspicion(evidence, before, after, float(differences.mean()), len(differences))


def _padded(scores: Values, size: int) -> Values:
    return np.concatenate([scores, np.full(size - len(scores), np.nan)])
