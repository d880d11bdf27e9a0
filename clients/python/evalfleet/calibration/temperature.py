"""How far a guard's probabilities can be taken at their word, and the one number that mends most of it.

Temperature scaling divides the log-odds of every probability by one number T, fitted by log loss on judged texts (Guo,
Pleiss, Sun & Weinberger, *On calibration of modern neural networks*, ICML 2017, arXiv:1706.04599). It keeps the order
of texts and the probability 0.5 where they are, so it can mend too much or too little confidence, but no bias.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A probability of 0 or 1 has no log-odds; float32 outputs carry no more than this either.
_EDGE = 1e-7
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
"""Without bounds, texts that a guard separates without a mistake would turn every probability into 0 or 1."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class CalibrationErrors:
    """Expected calibration error of probabilities, by how texts are put into bins; from 0 to 1.

    Attributes:
        equal_width: bins are equal ranges of probability (Naeini, Cooper & Hauskrecht, AAAI 2015; Guo et al. 2017).
        equal_mass: bins hold equally many texts (Nguyen & O'Connor, EMNLP 2015), so that none rests on a handful.
        log_loss: mean negative log-likelihood, in nats.
    """

    equal_width: float
    equal_mass: float
    log_loss: float


def apply_temperature(probability: float, temperature: float) -> float:
    """Return the probability whose log-odds are those of ``probability`` divided by ``temperature``; 0 and 1 stay."""
    if not 0 < probability < 1:
        return probability
    return _sigmoid(math.log(probability / (1 - probability)) / temperature)


def fit_temperature(probabilities: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the temperature with the least log loss, within bounds; 1 where all labels are alike.

    The log loss is convex in 1/T, so a golden-section search finds its minimum.

    Args:
        probabilities: of being unsafe.
        labels: whether each text is.
    """
    if len(set(labels)) < 2:
        return 1.0
    log_odds = [_log_odds(each) for each in probabilities]
    signed = [each if label else -each for each, label in zip(log_odds, labels, strict=True)]

    def loss(log_sharpness: float) -> float:
        sharpness = math.exp(log_sharpness)
        return math.fsum(_softplus(-sharpness * each) for each in signed)

    lower, upper = -math.log(MOST_TEMPERATURE), -math.log(LEAST_TEMPERATURE)
    left, right = upper - _GOLDEN * (upper - lower), lower + _GOLDEN * (upper - lower)
    loss_left, loss_right = loss(left), loss(right)
    while upper - lower > 1e-6:
        if loss_left <= loss_right:
            upper, right, loss_right = right, left, loss_left
            left = upper - _GOLDEN * (upper - lower)
            loss_left = loss(left)
        else:
            lower, left, loss_left = left, right, loss_right
            right = lower + _GOLDEN * (upper - lower)
            loss_right = loss(right)
    return math.exp(-(lower + upper) / 2)


def calibration_errors(probabilities: Sequence[float], labels: Sequence[bool], *, bins: int = 15) -> CalibrationErrors:
    """Measure probabilities against labels; each error is Σ share of a bin · |mean probability − share unsafe|.

    Args:
        probabilities: of being unsafe; at least one.
        labels: whether each text is.
        bins: at most so many.
    """
    entries = sorted(zip(probabilities, labels, strict=True), key=lambda entry: entry[0])
    count = len(entries)
    by_width: dict[int, list[tuple[float, bool]]] = {}
    by_mass: dict[int, list[tuple[float, bool]]] = {}
    for rank, entry in enumerate(entries):
        by_width.setdefault(min(bins - 1, int(entry[0] * bins)), []).append(entry)
        by_mass.setdefault(rank * bins // count, []).append(entry)
    losses = [_softplus(-_log_odds(each) if label else _log_odds(each)) for each, label in entries]
    return CalibrationErrors(
        equal_width=_error(by_width, count), equal_mass=_error(by_mass, count), log_loss=math.fsum(losses) / count
    )


def _error(bins: dict[int, list[tuple[float, bool]]], count: int) -> float:
    return math.fsum(abs(math.fsum(each - label for each, label in entries)) for entries in bins.values()) / count


def _log_odds(probability: float) -> float:
    bounded = min(1 - _EDGE, max(_EDGE, probability))
    return math.log(bounded / (1 - bounded))


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(value)
    return grown / (1 + grown)


def _softplus(value: float) -> float:
    """Return log(1 + e^value) without overflow."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
