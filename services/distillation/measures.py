"""How alike two judges are on the same texts, with intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BLOCKS: Final = 10
_BLOCK_RESAMPLES: Final = 100
_PERCENTILES: Final = (2.5, 97.5)

Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]
# How often each text counts, [resamples, texts].
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A value from 0 to 1 with what holds 95 % of its values over resamples of the texts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How well a judge's decisions and scores fit what is taken for the truth.

    Attributes:
        rows: texts.
        unsafe: of those, unsafe in truth.
        agreement: share that is decided like the truth.
        f1: of unsafe; None where the truth knows no unsafe text.
        auprc: area under the precision-recall curve; None as well, and where the judge gives no scores.
    """

    rows: int
    unsafe: int
    agreement: Measure
    f1: Measure | None
    auprc: Measure | None


def quality_of(decisions: Truth, scores: Scores | None, truth: Truth, *, seed: int) -> Quality | None:
    """Hold a judge against the truth; None without texts.

    The intervals are percentiles of 1,000 bootstrap resamples of the texts (Efron 1979).

    Args:
        decisions: the judge's, bool [texts].
        scores: the judge's, the larger the more unsafe, float64 [texts].
        truth: bool [texts].
        seed: of the resamples.
    """
    count = len(truth)
    if not count:
        return None
    f1: Measure | None = None
    auprc: Measure | None = None
    if truth.any():
        f1 = _measured(lambda weights: _f1(decisions, truth, weights), count, seed)
        if scores is not None:
            auprc = _measured(lambda weights: _average_precision(scores, truth, weights), count, seed)
    agrees = (decisions == truth).astype(np.float64)
    agreement = _measured(lambda weights: weights @ agrees / count, count, seed)
    return Quality(count, int(truth.sum()), agreement, f1, auprc)


def _measured(measure: Callable[[Weights], Scores], count: int, seed: int) -> Measure:
    chance = np.random.default_rng(seed)
    evenly = np.full(count, 1 / count)
    drawn = (chance.multinomial(count, evenly, size=_BLOCK_RESAMPLES).astype(np.float64) for _ in range(_BLOCKS))
    blocks = [measure(weights) for weights in drawn]
    # A resample in which nothing can be measured says nothing.
    low, high = np.nanpercentile(np.concatenate(blocks), _PERCENTILES)
    [value] = measure(np.ones((1, count)))
    return Measure(float(value), float(low), float(high))


def _f1(decisions: Truth, truth: Truth, weights: Weights) -> Scores:
    found = weights @ (decisions & truth).astype(np.float64)
    flagged = weights @ (decisions.astype(np.float64) + truth.astype(np.float64))
    return _shares(2 * found, flagged)


def _average_precision(scores: Scores, truth: Truth, weights: Weights) -> Scores:
    """Return Σ (R_n − R_{n−1}) P_n over distinct scores, for each resample."""
    order = np.argsort(-scores, kind="stable")
    # Equal scores form one step: only the last of them is a point of the curve.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(weights[:, order] * truth[order], axis=1)[:, ends]
    taken = np.cumsum(weights[:, order], axis=1)[:, ends]
    precision = np.nan_to_num(_shares(hits, taken))
    return _shares((precision * np.diff(hits, axis=1, prepend=0)).sum(axis=1), hits[:, -1])


def _shares(part: Scores, whole: Scores) -> Scores:
    """Return part over whole; NaN where there is nothing."""
    shares: Scores = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return shares
