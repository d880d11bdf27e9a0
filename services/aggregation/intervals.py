"""Confidence intervals of a mean over items, where the items are a sample of all questions of their kind."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import NormalDist

from scipy.special import stdtrit

DEFAULT_CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that holds the true mean with ``confidence_level``, by ``method``."""

    lower: float
    upper: float
    confidence_level: float
    method: str


def wilson_interval(successes: int, count: int, confidence_level: float) -> Interval:
    """Score interval of a proportion; stays inside [0, 1] and is honest for 0 or all successes.

    The set of p that a score test of size 1 − ``confidence_level`` does not reject (Wilson, Probable inference, the law
    of succession, and statistical inference, JASA 22, 1927; recommended for few items by Brown, Cai & DasGupta,
    Interval estimation for a binomial proportion, Statistical Science 16, 2001):
    (p̂ + z²/2n ± z·√(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n).

    Args:
        successes: items with value 1.
        count: all items, at least 1.
        confidence_level: between 0 and 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    share = successes / count
    weight = z * z / count
    middle = (share + weight / 2) / (1 + weight)
    reach = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    # Exact at the ends, where rounding would leave 1e-17 or so.
    lower = 0.0 if successes == 0 else middle - reach
    upper = 1.0 if successes == count else middle + reach
    return Interval(lower, upper, confidence_level, "wilson")


def student_t_interval(mean: float, standard_error: float, count: int, confidence_level: float) -> Interval:
    """Mean ± t · standard error, with ``count`` − 1 degrees of freedom (Student, Biometrika 6, 1908).

    Exact for normal values, close for others once there are many. Not cut to the metric's range.

    Args:
        mean: over items.
        standard_error: of that mean.
        count: items, at least 2.
        confidence_level: between 0 and 1.
    """
    reach = student_t_quantile(count - 1, confidence_level) * standard_error
    return Interval(mean - reach, mean + reach, confidence_level, "student-t")


def student_t_quantile(degrees: int, confidence_level: float) -> float:
    """Return t so that a value of Student's distribution lies between -t and t with ``confidence_level``."""
    return float(stdtrit(degrees, 0.5 + confidence_level / 2))


def mean_of(values: Collection[float]) -> float:
    """Return the mean of at least one value, rounded once."""
    return math.fsum(values) / len(values)


def standard_error_of(values: Collection[float]) -> float | None:
    """Return s/√n with the unbiased s² (n − 1); ``None`` with fewer than two values.

    Over item means this is right for several samples an item too: the spread of item means holds both levels, that
    between items and that between samples of an item (Miller, Adding error bars to evals, arXiv:2411.00640, 2024).
    """
    count = len(values)
    if count < 2:
        return None
    mean = mean_of(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)


def interval_with_unknown(
    lowest: Collection[float], highest: Collection[float], confidence_level: float
) -> Interval | None:
    """Return an interval of the mean that holds whatever some of the values are.

    From the lower end of the interval at their lowest to the upper end of that at their highest. Whatever they are, the
    interval of the completed values holds the mean with the level; no assumption is made on why they are not known
    (Horowitz & Manski, Nonparametric analysis of randomized experiments with missing covariate and outcome data, JASA
    95, 2000). ``None`` where either has none.

    Args:
        lowest: all values, those that are not known at the lowest that they can be.
        highest: the same with the highest.
        confidence_level: between 0 and 1.
    """
    low, high = interval_of(lowest, confidence_level), interval_of(highest, confidence_level)
    if low is None or high is None:
        return None
    return Interval(low.lower, high.upper, confidence_level, f"{low.method}-unjudged")


def interval_of(values: Collection[float], confidence_level: float) -> Interval | None:
    """Return the interval of the mean of item values.

    Wilson's where every value is 0 or 1; else Student's t. ``None`` without values, and where t knows no spread: one
    item, or items that are all equal, whose interval of width zero would claim a certainty that nobody has.
    """
    if not values:
        return None
    if all(value in (0.0, 1.0) for value in values):
        return wilson_interval(int(math.fsum(values)), len(values), confidence_level)
    standard_error = standard_error_of(values)
    if not standard_error:
        return None
    return student_t_interval(mean_of(values), standard_error, len(values), confidence_level)
