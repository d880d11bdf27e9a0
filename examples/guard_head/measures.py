"""Measures of a binary classifier, in plain numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]

_THRESHOLDS: Final = tuple(each / 100 for each in range(1, 100))


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What a threshold does; a share whose denominator is empty is NaN."""

    precision: float
    recall: float
    f1: float
    false_positive_rate: float


def average_precision(scores: Scores, labels: Labels) -> float:
    """Area under the precision-recall curve as Σ (R_n − R_{n−1}) P_n over distinct scores; NaN without positives."""
    positives = int(labels.sum())
    if positives == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], labels[order].cumsum()
    # Equal scores form one step: only the last of them is a point of the curve.
    ends = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    precision = hits[ends] / (ends + 1)
    recall_steps = np.diff(np.append(0, hits[ends])) / positives
    return float((precision * recall_steps).sum())


def at_threshold(scores: Scores, labels: Labels, threshold: float) -> AtThreshold:
    """Measure the decision ``score >= threshold``."""
    flagged = scores >= threshold
    true_positives = int((flagged & labels).sum())
    precision = _share(true_positives, int(flagged.sum()))
    recall = _share(true_positives, int(labels.sum()))
    f1 = _share(2 * true_positives, int(flagged.sum()) + int(labels.sum()))
    return AtThreshold(precision, recall, f1, _share(int((flagged & ~labels).sum()), int((~labels).sum())))


def calibration_error(scores: Scores, labels: Labels, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins: Σ share · |mean score − share of positives|."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    total = 0.0
    for each in range(bins):
        chosen = bin_of == each
        if chosen.any():
            total += chosen.mean() * abs(scores[chosen].mean() - labels[chosen].mean())
    return total


def log_loss(scores: Scores, labels: Labels) -> float:
    """Mean negative log-likelihood of the labels; scores are kept 1e-6 away from 0 and 1."""
    bounded = np.clip(scores, 1e-6, 1 - 1e-6)
    return float(-np.where(labels, np.log(bounded), np.log(1 - bounded)).mean())


def calm_threshold(scores: Scores, labels: Labels, slack: float) -> float:
    """Return the highest threshold, in steps of 0.01, whose F1 is at most ``slack`` below the highest F1.

    Where F1 hardly depends on the threshold, the highest one has the fewest false alarms.
    """
    f1 = _f1_of_thresholds(scores, labels)
    return _THRESHOLDS[int(np.flatnonzero(f1 >= f1.max() - slack)[-1])]


def _f1_of_thresholds(scores: Scores, labels: Labels) -> Scores:
    return np.nan_to_num([at_threshold(scores, labels, each).f1 for each in _THRESHOLDS])


def resampled_interval(
    scores: Scores, labels: Labels, measure: Callable[[Scores, Labels], float], *, resamples: int = 2000, seed: int = 7
) -> tuple[float, float]:
    """Return what holds 95 % of a measure's values over bootstrap resamples of the rows (percentiles; Efron 1979)."""
    chance = np.random.default_rng(seed)
    drawn = (chance.integers(len(scores), size=len(scores)) for _ in range(resamples))
    low, high = np.nanpercentile([measure(scores[rows], labels[rows]) for rows in drawn], (2.5, 97.5))
    return float(low), float(high)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
