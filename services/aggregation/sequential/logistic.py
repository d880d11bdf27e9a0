"""Logistic regression with a prior for each coefficient."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit

from services.aggregation.sequential.draws import Values

_STEPS: Final = 25
_HALVINGS: Final = 12
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Prior:
    """What coefficients are expected to be: normal, independent.

    Attributes:
        centre: their means, [features].
        precision: one over their variances, [features].
    """

    centre: Values
    precision: Values


def fitted(features: Values, scores: Values, prior: Prior) -> Values:
    """Return the most likely coefficients, by Newton's method with steps that are halved until the loss falls.

    Minimises Σ log loss + ½ Σ precision · (b − centre)². Undamped steps diverge where items are all but certain.

    Args:
        features: [items, features].
        scores: from 0 to 1, [items].
        prior: of the coefficients.
    """
    coefficients = prior.centre.copy()
    loss = _loss(features, scores, coefficients, prior)
    for _ in range(_STEPS):
        expected = expit(features @ coefficients)
        gradient = features.T @ (expected - scores) + prior.precision * (coefficients - prior.centre)
        curvature = (features.T * (expected * (1 - expected))) @ features + np.diag(prior.precision)
        step = np.linalg.solve(curvature, gradient)
        for _ in range(_HALVINGS):
            tried = coefficients - step
            lower = _loss(features, scores, tried, prior)
            if lower < loss:
                break
            step = step / 2
        else:
            return coefficients
        is_done = loss - lower < _TOLERANCE * max(1.0, loss)
        coefficients, loss = tried, lower
        if is_done:
            return coefficients
    return coefficients


def _loss(features: Values, scores: Values, coefficients: Values, prior: Prior) -> float:
    linear = features @ coefficients
    off = coefficients - prior.centre
    return float((np.logaddexp(0.0, linear) - scores * linear).sum() + 0.5 * (prior.precision * off**2).sum())
