"""Predictions of every item's score, and draw weights that follow from them."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit

from services.aggregation.sequential.draws import Flags, Items, Values
from services.aggregation.sequential.history import History, knowledge_of
from services.aggregation.sequential.logistic import fitted

_FLOOR: Final = 0.3
_LEAST_PREDICTION: Final = 0.005


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next batch is drawn with, one entry an item.

    Attributes:
        predictions: expected scores, from 0 to 1.
        weights: for the draws, above 0.
        variances: of the scores around the predictions.
    """

    predictions: Values
    weights: Values
    variances: Values


class Predictor:
    """Predicts every item's score from history, and from the scores that are in.

    Args:
        history: at least one model.
    """

    def __init__(self, history: History) -> None:
        self._knowledge = knowledge_of(history)
        self._coefficients = self._knowledge.prior.centre

    def fit(self, items: Items, scores: Values) -> None:
        """Fit to the scores that are in: those of the completed draws, all of them each time."""
        known = self._knowledge
        self._coefficients = fitted(known.features[items], scores, known.prior)

    def forget(self) -> None:
        """Go back to where no score is in."""
        self._coefficients = self._knowledge.prior.centre

    def plan(self, left: Flags) -> Plan:
        """Return what to draw the next batch with; ``left`` says which items are not drawn yet."""
        expected = expit(self._knowledge.features @ self._coefficients)
        predictions = np.clip(expected, _LEAST_PREDICTION, 1 - _LEAST_PREDICTION)
        return Plan(predictions, neyman_weights(predictions, left), predictions * (1 - predictions))


def neyman_weights(predictions: Values, left: Flags) -> Values:
    """Return draw weights in proportion to an item's uncertainty, mixed with uniform ones so that they stay bounded.

    The best weights for a mean are proportional to the standard deviations (Neyman, JRSS 97, 1934), here √(f (1 − f)).

    Args:
        predictions: f, of all items.
        left: which are not drawn yet.
    """
    deviations = np.sqrt(predictions * (1 - predictions))
    mean = float(deviations[left].mean()) if left.any() else 0.0
    if mean <= 0:
        return np.ones(len(predictions))
    return np.asarray((1 - _FLOOR) * deviations / mean + _FLOOR)
