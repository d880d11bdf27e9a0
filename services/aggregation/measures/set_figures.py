"""Figures of a whole set of items that no mean over them is: bias, calibration error, a corpus' perplexity."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.score_interval import paired_score_interval
from services.aggregation.intervals import (
    Interval,
    standard_error_of,
    student_t_interval,
    student_t_quantile,
    wilson_interval,
)

Values = NDArray[np.float64]

BINS: Final = 15
_RESAMPLES: Final = 1000
_FEWEST_RESAMPLES: Final = 200
_DRAWN_VALUES: Final = 20_000_000
"""Of large sets fewer resamples are drawn: what they add to the interval's error is small beside their cost."""
_VALUES_A_RESAMPLE: Final = 1000
"""So many values are drawn in the time that a resample of none takes."""
_ROUNDING: Final = 1e-6
MOST_DRAWN_VALUES: Final = 100_000_000
"""Takes a core some seconds."""
_MOST_OVERDRAWN_VALUES: Final = 800_000_000
"""Some tens of seconds: four sets of a million items each."""


@dataclass(slots=True)
class ResampleBudget:
    """What resampling may still cost the figures of one call; counted in values, so that nothing depends on time.

    Attributes:
        values_left: that may be drawn; a resample counts as some more.
        may_overdraw: what is asked for now is granted far beyond that, but not without end.
    """

    values_left: int = MOST_DRAWN_VALUES
    may_overdraw: bool = False

    def take(self, count: int) -> int:
        """Return how many resamples of so many items may be drawn, and take their cost; 0 if too little is left."""
        resamples = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _DRAWN_VALUES // count))
        cost = resamples * (count + _VALUES_A_RESAMPLE)
        if cost > self.values_left + (_MOST_OVERDRAWN_VALUES if self.may_overdraw else 0):
            return 0
        self.values_left -= cost
        return resamples


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a set, and its interval where the items are a sample of all of their kind; ``None`` if none holds."""

    value: float
    interval: Interval | None


def signed_share(values: Values, confidence_level: float) -> Figure | None:
    """Return the share of items for which the first column is true less that for which the second is.

    BBQ's bias score of ambiguous contexts, (1 - accuracy) · (2 n_biased / n_named - 1), is this: whoever is named there
    is wrong (Parrish et al., BBQ, arXiv 2110.08193, section 4). Interval: Tango's for two shares of the same items;
    Student's t where items are means of several samples.

    Args:
        values: [items, 2] of 0 or 1, never both 1; or means of such. None if a value is neither.
        confidence_level: between 0 and 1.
    """
    if not _are_shares(values):
        return None
    differences = values[:, 0] - values[:, 1]
    value, count = float(differences.mean()), len(values)
    if _are_binary(values):
        first, second = (int(values[:, column].sum()) for column in (0, 1))
        return Figure(value, paired_score_interval(first, second, count, confidence_level))
    error = standard_error_of(differences.tolist())
    return Figure(value, student_t_interval(value, error, count, confidence_level) if error else None)


def signed_ratio(values: Values, confidence_level: float) -> Figure | None:
    """Return how much more often the first column is true than the second, among items where either is: -1 to 1.

    BBQ's bias score of disambiguated contexts, 2 n_biased / n_named - 1 (as above). Interval: Wilson's of the
    share among those items, stretched to -1 … 1; of means of samples the linearised ratio's. None if neither is ever
    true, or a value is not between 0 and 1.
    """
    if not _are_shares(values):
        return None
    firsts, either = values[:, 0], values.sum(axis=1)
    if not either.any():
        return None
    value = 2 * float(firsts.sum() / either.sum()) - 1
    if _are_binary(values):
        share = wilson_interval(int(firsts.sum()), int(either.sum()), confidence_level)
        return Figure(value, Interval(2 * share.lower - 1, 2 * share.upper - 1, confidence_level, share.method))
    share_of = ratio(np.column_stack([firsts, either]), confidence_level)
    limits = share_of.interval if share_of else None
    if limits is None:
        return Figure(value, None)
    return Figure(value, Interval(2 * limits.lower - 1, 2 * limits.upper - 1, confidence_level, limits.method))


def calibration_error(values: Values, confidence_level: float, budget: ResampleBudget) -> Figure | None:
    """Return the expected calibration error of answers: how far confidence and accuracy are apart, on average.

    Σ_bins |Σ_items (correct - confidence)| / n over 15 bins of equal width (Naeini et al., AAAI 2015; Guo et al., ICML
    2017). Few items make it too large even of a calibrated model. Interval: value ± z · s, where s is its standard
    error over resamples of the items, and below also less what resamples add to it, an estimate of that excess (Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 10). It begins at 0 where a calibrated model of
    these confidences would often have as large an error (consistency resampling: Bröcker & Smith, Weather and
    Forecasting 22, 2007). In simulations it held the true error in 93 % to 98 % of cases at a level of 95 %. What is
    drawn is seeded: the same items have the same interval. None if a value is no probability.

    Args:
        values: [items, 2]: confidence in the answer, from 0 to 1, and whether it was right.
        confidence_level: between 0 and 1.
        budget: pays for the interval; where it is too small there is none.
    """
    if not _are_shares(values):
        return None
    values = np.clip(values, 0, 1)
    gaps = values[:, 1] - values[:, 0]
    bins = np.minimum((values[:, 0] * BINS).astype(np.int64), BINS - 1)
    count = len(gaps)
    value = _error_of(bins, gaps)
    resamples = budget.take(count) if count > 1 else 0
    if not resamples:
        return Figure(value, None)
    random = np.random.default_rng(0)
    found, of_calibrated = np.empty(resamples), np.empty(resamples)
    for index in range(resamples):
        drawn = random.integers(0, count, count)
        found[index] = _error_of(bins[drawn], gaps[drawn])
        of_calibrated[index] = _error_of(bins, (random.random(count) < values[:, 0]) - values[:, 0])
    tail = 0.5 + confidence_level / 2
    reach = NormalDist().inv_cdf(tail) * float(found.std(ddof=1))
    excess = max(0.0, float(found.mean()) - value)
    is_clear = value > float(np.quantile(of_calibrated, tail))
    lower = max(0.0, value - excess - reach) if is_clear else 0.0
    return Figure(value, Interval(lower, min(1.0, value + reach), confidence_level, "bootstrap"))


def _error_of(bins: NDArray[np.int64], gaps: Values) -> float:
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=BINS)).sum() / len(gaps))


def ratio(values: Values, confidence_level: float) -> Figure | None:
    """Return the first column's sum over the second's, such as a corpus' nats a byte.

    Interval: Student's t on the linearised ratio, whose variance is n / (n - 1) · Σ (x - R y)² / (Σ y)² (Cochran,
    Sampling Techniques, 1977, section 6.4). None if the second column is 0.
    """
    total = float(values[:, 1].sum())
    if total == 0:
        return None
    value, count = float(values[:, 0].sum()) / total, len(values)
    if count < 2 or not math.isfinite(value):
        return Figure(value, None)
    residuals = values[:, 0] - value * values[:, 1]
    error = math.sqrt(count / (count - 1) * float((residuals**2).sum())) / total
    if error == 0 or not math.isfinite(error):
        return Figure(value, None)
    reach = student_t_quantile(count - 1, confidence_level) * error
    return Figure(value, Interval(value - reach, value + reach, confidence_level, "ratio-t"))


def transformed(figure: Figure | None, by: Callable[[float], float]) -> Figure | None:
    """Return an increasing function of a figure, and of its interval's ends."""
    if figure is None or figure.interval is None:
        return None if figure is None else Figure(by(figure.value), None)
    limits = figure.interval
    moved = Interval(by(limits.lower), by(limits.upper), limits.confidence_level, limits.method)
    return Figure(by(figure.value), moved)


def _are_binary(values: Values) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _are_shares(values: Values) -> bool:
    # A share that was computed may miss 0 and 1 by a rounding.
    return bool(((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all())
