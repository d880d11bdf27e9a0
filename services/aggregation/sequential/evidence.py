"""What each draw says of the mean of the whole list: an unbiased value with bounds and a variance known beforehand."""

from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Final

import numpy as np

from services.aggregation.sequential.draws import Flags, Items, Values

_DECAY: Final = 0.95 ** (1 / 32)
_PSEUDO_DRAWS: Final = 20.0
_CAUTION: Final = 1.2
_LEAST_VARIANCE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Terms:
    """What is known of each draw before its score is: one entry a draw, in draw order; R are the items left before it.

    Attributes:
        items: the item drawn.
        probabilities: q, of drawing it.
        predictions: f, of its score.
        left: |R|.
        expected_left: Σ f over R.
        furthest_down: largest f / q over R: no value can lie further below the middle.
        furthest_up: largest (1 − f) / q over R.
        variances: of (y − f) / (q |R|), were the predictions right.
    """

    items: Items
    probabilities: Values
    predictions: Values
    left: Values
    expected_left: Values
    furthest_down: Values
    furthest_up: Values
    variances: Values

    def part(self, rows: slice) -> "Terms":
        """Return some of the draws."""
        return Terms(*(getattr(self, each.name)[rows] for each in fields(self)))


def terms_of(items: Items, rest: Flags, predictions: Values, weights: Values, variances: Values) -> Terms:
    """Work out the terms of a batch in time linear in the list.

    Sums run from the last draw backwards, so that none is the difference of large numbers.

    Args:
        items: drawn in this order.
        rest: which items are left after the last of them, [size].
        predictions: of all items, from 0 to 1.
        weights: of all items, with which these are drawn.
        variances: of all items' scores around their predictions.
    """
    left = float(rest.sum()) + np.arange(len(items), 0, -1)
    weight = _backwards(np.add, weights, items, rest)
    return Terms(
        items=items,
        probabilities=weights[items] / weight,
        predictions=predictions[items],
        left=left,
        expected_left=_backwards(np.add, predictions, items, rest),
        furthest_down=_backwards(np.maximum, predictions / weights, items, rest) * weight,
        furthest_up=_backwards(np.maximum, (1 - predictions) / weights, items, rest) * weight,
        variances=_backwards(np.add, variances / weights, items, rest) * weight / left**2,
    )


def _backwards(operation: np.ufunc, values: Values, items: Items, rest: Flags) -> Values:
    behind = operation.reduce(values[rest], initial=0.0)
    return np.asarray(operation.accumulate(np.concatenate(([behind], values[items][::-1])))[:0:-1])


@dataclass(frozen=True, slots=True)
class Increments:
    """One entry a draw, in draw order; ``low``, ``high`` and ``variance`` follow from the draws before.

    Attributes:
        values: Z_t, whose expectation given the past is the mean of the list.
        low: no value of this draw can be below.
        high: no value of this draw can be above.
        variance: what the value's is expected to be, above 0.
        sums: sum of the scores up to and including this draw.
        counts: number of draws up to and including this one.
    """

    values: Values
    low: Values
    high: Values
    variance: Values
    sums: Values
    counts: Items

    def part(self, rows: slice) -> "Increments":
        """Return some of the draws."""
        return Increments(*(getattr(self, each.name)[rows] for each in fields(self)))


class Evidence:
    """Turns scores in draw order into increments.

    With predictions f and draw probabilities q that depend on the past only, and y the score of the drawn item i,
    Z_t = (Σ_seen y + Σ_left f + (y_i − f_i) / q(i)) / N has the list's mean as its expectation, whatever f and q are
    (Shekhar, Xu, Lipton, Liang & Ramdas, Risk-limiting financial audits via weighted sampling without replacement,
    UAI 2023; with predictions: Zrnic & Candès, Active statistical inference, ICML 2024).

    The variance is what the predictions promise, times how far they were off lately: squares around a decayed mean
    over what was promised, both decayed, some cautious pseudo-draws among them.

    The same scores give bit-equal increments however they are cut into calls.

    Args:
        size: items in the list, N.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 0
        self._sum = 0.0
        self._squares = 0.0
        self._promised = 0.0
        self._surprises = 0.0
        self._weight = _PSEUDO_DRAWS

    @property
    def count(self) -> int:
        """Items seen."""
        return self._count

    @property
    def seen_sum(self) -> float:
        """Sum of their scores."""
        return self._sum

    def copy(self) -> "Evidence":
        """Return another with the same past."""
        other = Evidence(self._size)
        other._count, other._sum = self._count, self._sum
        other._squares, other._promised = self._squares, self._promised
        other._surprises, other._weight = self._surprises, self._weight
        return other

    def observe(self, scores: Values, terms: Terms) -> Increments:
        """Take the scores of the next draws, from 0 to 1, and the terms of these draws."""
        size = self._size
        sums = np.add.accumulate(np.concatenate(([self._sum], scores)))
        base = (sums[:-1] + terms.expected_left) / size
        surprises = (scores - terms.predictions) / terms.probabilities
        increments = Increments(
            values=base + surprises / size,
            low=base - terms.furthest_down / size,
            high=base + terms.furthest_up / size,
            variance=(terms.left / size) ** 2 * self._variances(surprises / terms.left, terms.variances),
            sums=sums[1:],
            counts=self._count + 1 + np.arange(len(scores)),
        )
        self._sum = float(sums[-1])
        self._count += len(scores)
        return increments

    def _variances(self, surprises: Values, promised: Values) -> Values:
        """Return what the surprises' variance is expected to be before each of them."""
        if not len(surprises):
            return surprises
        promised = promised + 1e-9
        if self._promised == 0.0:
            first = float(promised[0])
            self._promised = _PSEUDO_DRAWS * first
            self._squares = _PSEUDO_DRAWS * (_CAUTION * first + _LEAST_VARIANCE)
        totals = _decayed(surprises, self._surprises)
        weights = _decayed(np.ones(len(surprises)), self._weight)
        squares = _decayed((surprises - totals[:-1] / weights[:-1]) ** 2, self._squares)
        promises = _decayed(promised, self._promised)
        self._surprises, self._weight = float(totals[-1]), float(weights[-1])
        self._squares, self._promised = float(squares[-1]), float(promises[-1])
        return np.asarray(promised * squares[:-1] / promises[:-1])


def _decayed(values: Values, state: float) -> Values:
    """Return the decayed sums before each value, and the one after all: [n + 1]."""
    # Linear filters of scipy.signal would do the same, but take two seconds to import.
    return np.array(list(accumulate(values.tolist(), lambda total, value: _DECAY * total + value, initial=state)))
