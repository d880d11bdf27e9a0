"""Standard errors of a mean over items that are a sample of a wider population of questions."""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]


def clustered_standard_error(values: Values, clusters: Numbers) -> float | None:
    """Return the standard error of the mean where items of one cluster (a passage, a template) belong together.

    √(Σ_clusters (Σ_items (y − ȳ))²) / n, with the usual factor G/(G − 1) for the few clusters (Miller, Adding error
    bars to evals, arXiv 2411.00640, 2024, section 2.2; Cameron & Miller, Journal of Human Resources 50, 2015). None
    with fewer than two clusters.

    Args:
        values: of the items.
        clusters: of the items, numbered from 0.
    """
    totals = np.bincount(clusters, weights=values - values.mean())
    present = np.bincount(clusters) > 0
    count = int(present.sum())
    if count < 2:
        return None
    return math.sqrt(float((totals[present] ** 2).sum()) * count / (count - 1)) / len(values)


def two_level_variance(samples: Values) -> tuple[float, float]:
    """Return the variance between items and the mean variance between samples of an item.

    The first is that of the items' means less what the samples add to it, at least 0 (method of moments for one-way
    random effects; Searle, Casella & McCulloch, Variance Components, 1992, chapter 3). So the standard error with k
    samples of each of n items is √((between + within / k) / n).

    Args:
        samples: [items, samples], at least two of each.

    Raises:
        ValueError: there are fewer than two items or samples.
    """
    items, count = samples.shape
    if items < 2 or count < 2:
        raise ValueError("needs at least two items and two samples of each")
    within = float(samples.var(axis=1, ddof=1).mean())
    between = float(samples.mean(axis=1).var(ddof=1)) - within / count
    return max(0.0, between), within


def two_level_standard_error(between: float, within: float, items: int, samples: int) -> float:
    """Return the standard error of the mean over items with some samples each: √((between + within / k) / n)."""
    return math.sqrt((between + within / samples) / items)
