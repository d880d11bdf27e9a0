"""Is a variant worse than its base by more than a margin? Decided in draw order, right whenever one stops."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.draw_orders import DrawOrder
from services.aggregation.intervals import Interval

Values = NDArray[np.float64]

METHOD: Final = "paired-betting"
_NEUTRAL: Final = 0.5
_MOST_AT_STAKE: Final = 0.95
_DECAY: Final = 0.95 ** (1 / 32)
_PSEUDO_DRAWS: Final = 20.0
# Of scores between 0 and 1: one item in twenty differs.
_PRIOR_VARIANCE: Final = 0.0125
_LEAST_MARGIN: Final = 0.005
_STEPS_AROUND: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_SHARES: Final = (0.1, 0.5, 0.1, 0.1, 0.1, 0.1)
_LARGEST_GAP: Final = 0.4
_ROUNDING: Final = 1e-9
_RESOLUTION: Final = 1e-4


class Verdict(Enum):
    """What is known of the variant."""

    UNDECIDED = "undecided"
    NOT_INFERIOR = "not_inferior"
    INFERIOR = "inferior"


@dataclass(frozen=True, slots=True)
class MarginRule:
    """What is asked, and how sure the answers must be.

    Attributes:
        margin: how much worse the variant's mean may be, from 0 to below 1.
        false_pass: largest probability of ever calling it not inferior when it is worse by more.
        false_fail: largest probability of ever calling it inferior when it is not.
        interval_level: confidence level of the interval.
    """

    margin: float
    false_pass: float
    false_fail: float
    interval_level: float


@dataclass(frozen=True, slots=True)
class MarginOutcome:
    """What the differences say.

    Attributes:
        decided_after: items after which the verdict was clear.
        is_superior: the variant is better, by any amount.
        interval: of the difference over the whole list, at all times at once.
        reason: why there is no verdict; empty if there is one.
    """

    verdict: Verdict
    decided_after: int | None
    is_superior: bool
    interval: Interval | None
    prefix_count: int
    item_count: int
    reason: str


def without_verdict(reason: str, *, prefix_count: int, item_count: int) -> MarginOutcome:
    """Return an outcome that says only why there is no verdict."""
    return MarginOutcome(Verdict.UNDECIDED, None, False, None, prefix_count, item_count, reason)


def decide(lowest: Values, highest: Values, order: DrawOrder, rule: MarginRule) -> MarginOutcome:
    """Decide from differences in the order in which the items were drawn without replacement.

    The scores (1 + difference) / 2 lie in [0, 1]; their mean over the list is bet on with ½ as the prediction of every
    item, so that items on which the runs agree cost next to no evidence. «Not inferior» and «inferior» are bets above
    and below (1 − margin) / 2, each a mixture over assumed distances from it, half of it on «no difference at all».
    Method: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting, JRSS-B 86, 2024, without
    replacement; with a prediction as control variate: Shekhar et al., UAI 2023.

    Args:
        lowest: differences variant − base, better being more, at the worst that failed items allow, [n], in [−1, 1].
        highest: the same at the best.
        order: of n draws or more.
        rule: what is asked.
    """
    count, size = len(lowest), order.size
    if not count:
        return without_verdict("MORE_ITEMS_NEEDED", prefix_count=0, item_count=size)
    worst, best = (_draws((1 + each) / 2, order) for each in (lowest, highest))
    claim = (1 - rule.margin) / 2
    passed = _first(_capital_above(worst, claim, rule.margin), rule.false_pass, worst.sums >= claim * size - _ROUNDING)
    failed = _first(
        _capital_below(best, claim, rule.margin),
        rule.false_fail,
        best.sums + size - best.counts < claim * size - _ROUNDING,
    )
    superior = _first(_capital_above(worst, 0.5, rule.margin), rule.false_pass, worst.sums > 0.5 * size + _ROUNDING)
    verdict, after = Verdict.UNDECIDED, None
    # If both were ever certain, the evidence is as good for the one as for the other: the earlier one stays.
    if passed is not None and (failed is None or passed <= failed):
        verdict, after = Verdict.NOT_INFERIOR, passed
    elif failed is not None:
        verdict, after = Verdict.INFERIOR, failed
    return MarginOutcome(
        verdict=verdict,
        decided_after=after,
        is_superior=superior is not None,
        interval=_interval(worst, best, size, rule),
        prefix_count=count,
        item_count=size,
        reason="" if after is not None else "MORE_ITEMS_NEEDED" if count < size else "VALUES_MISSING",
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    """What each draw says of the mean of the list, one entry a draw.

    Attributes:
        values: Z_t, whose expectation given the draws before is that mean.
        low: no value of this draw can be below; as ``high`` and ``variance``, known before it.
        high: no value of this draw can be above.
        variance: what the value's is expected to be.
        sums: of the scores so far.
        counts: of the draws so far.
    """

    values: Values
    low: Values
    high: Values
    variance: Values
    sums: Values
    counts: NDArray[np.int64]


def _draws(scores: Values, order: DrawOrder) -> _Draws:
    """Return what draws say of the mean, with ½ as the prediction of every item."""
    count, size = len(scores), order.size
    left = size - np.arange(count)
    sums = np.cumsum(scores)
    base = (sums - scores + _NEUTRAL * left) / size
    surprises = (scores - _NEUTRAL) * order.inflations[:count]
    reach = _NEUTRAL * order.largest[:count] * left / size
    return _Draws(
        values=base + surprises * left / size,
        low=base - reach,
        high=base + reach,
        variance=(left / size) ** 2 * _variances(np.square(surprises, dtype=np.float64)),
        sums=sums,
        counts=1 + np.arange(count),
    )


def _variances(squares: Values) -> Values:
    """Return before each draw the decayed mean of the squares so far, some pseudo-draws among them."""
    # In blocks: powers of the decay over a whole benchmark would leave floating point.
    total, weight, block = _PSEUDO_DRAWS * _PRIOR_VARIANCE, _PSEUDO_DRAWS, 1024
    parts = []
    for start in range(0, len(squares), block):
        part = squares[start : start + block]
        steps = np.arange(1, len(part) + 1)
        fade = _DECAY**steps
        sums = fade * (total + np.cumsum(part / fade))
        weights = fade * (weight + np.cumsum(1 / fade))
        means = sums / weights
        parts.append(np.concatenate(([total / weight], means[:-1])))
        total, weight = float(sums[-1]), float(weights[-1])
    return np.concatenate(parts)


def _gaps(margin: float) -> tuple[Values, Values]:
    """Return assumed distances of the mean from the claim, and how much of the capital is staked on each."""
    gaps = np.minimum(np.array(_STEPS_AROUND) * max(margin, _LEAST_MARGIN) / 2, _LARGEST_GAP)
    return gaps, np.array(_SHARES)


def _capital_above(draws: _Draws, claim: float, margin: float) -> Values:
    """Return the logarithm of the capital of bets that the mean is above a claim, after each draw."""
    return _capital(draws.values - claim, claim - draws.low, draws.variance, margin)


def _capital_below(draws: _Draws, claim: float, margin: float) -> Values:
    """Return the logarithm of the capital of bets that the mean is below a claim, after each draw."""
    return _capital(claim - draws.values, draws.high - claim, draws.variance, margin)


def _capital(won: Values, room: Values, variance: Values, margin: float) -> Values:
    """Return log Σ share · Π (1 + λ · won), λ = g / (s² + g²) for a gap g, never so large that all can be lost."""
    gaps, shares = _gaps(margin)
    # Where nothing can be lost, nothing bounds the stake but the numbers.
    most = _MOST_AT_STAKE / np.maximum(room, _ROUNDING)
    stakes = np.minimum(gaps[None, :] / (variance[:, None] + gaps[None, :] ** 2), most[:, None])
    capital = np.cumsum(np.log1p(stakes * won[:, None]), axis=0)
    return np.asarray(np.logaddexp.reduce(capital + np.log(shares), axis=1))


def _first(capital: Values, level: float, is_certain: NDArray[np.bool_]) -> int | None:
    """Return the number of items after which the capital or certainty was enough."""
    enough = np.flatnonzero((capital >= -math.log(level)) | is_certain)
    return int(enough[0]) + 1 if len(enough) else None


def _interval(worst: _Draws, best: _Draws, size: int, rule: MarginRule) -> Interval:
    """Return all differences that no bet has refuted at any time and that the scores leave possible."""
    limit = math.log(2 / (1 - rule.interval_level))

    def is_refuted_from_below(claim: float) -> bool:
        return float(_capital_above(worst, claim, rule.margin).max()) >= limit

    def is_refuted_from_above(claim: float) -> bool:
        return float(_capital_below(best, claim, rule.margin).max()) >= limit

    # Capitals fall as the claim moves towards the truth, so each end is found by halving.
    lower = max(_last_refuted(0.0, 1.0, is_refuted_from_below), float(worst.sums[-1]) / size)
    highest_possible = (float(best.sums[-1]) + size - len(best.sums)) / size
    upper = min(_last_refuted(1.0, 0.0, is_refuted_from_above), highest_possible)
    return Interval(2 * min(lower, upper) - 1, 2 * upper - 1, rule.interval_level, METHOD)


def _last_refuted(refuted: float, kept: float, is_refuted: Callable[[float], bool]) -> float:
    if not is_refuted(refuted):
        return refuted
    while abs(kept - refuted) > _RESOLUTION:
        middle = (refuted + kept) / 2
        if is_refuted(middle):
            refuted = middle
        else:
            kept = middle
    return refuted
