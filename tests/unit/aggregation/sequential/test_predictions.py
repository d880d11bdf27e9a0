"""Predictions from history: better than none, never outside their range, and drawn with bounded weights."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from services.aggregation.sequential.history import History
from services.aggregation.sequential.logistic import Prior, fitted
from services.aggregation.sequential.predictions import Predictor, neyman_weights

Values = NDArray[np.float64]


def models(count: int, items: int, seed: int = 0) -> Values:
    """Results of models of growing ability on items of different difficulty."""
    chance = np.random.default_rng(seed)
    difficulty, ability = chance.normal(0, 2, items), np.linspace(-1, 1.5, count)
    return np.asarray(chance.random((count, items)) < expit(ability[:, None] - difficulty[None, :]), dtype=np.float64)


def error(predictions: Values, scores: Values) -> float:
    return float(((predictions - scores) ** 2).mean())


@pytest.mark.parametrize("is_sequence", [True, False])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_history_predicts_the_next_model(count: int, is_sequence: bool) -> None:
    scores = models(count + 1, 2000)
    predictor = Predictor(History(scores[:-1], is_sequence=is_sequence))
    everything = np.ones(2000, np.bool_)
    seen, truth = np.arange(200), scores[-1][200:]
    predictor.fit(seen, scores[-1][seen])
    plan = predictor.plan(everything)
    constant = np.full(len(truth), truth.mean())
    assert error(plan.predictions[200:], truth) < error(constant, truth) * 0.95
    assert 0 < plan.predictions.min() < plan.predictions.max() < 1
    np.testing.assert_allclose(plan.variances, plan.predictions * (1 - plan.predictions))
    predictor.forget()
    assert not np.array_equal(predictor.plan(everything).predictions, plan.predictions)


def test_more_models_and_scores_make_better_predictions() -> None:
    scores = models(13, 3000, seed=4)
    seen = np.arange(300)
    errors = []
    for first in (11, 0):
        predictor = Predictor(History(scores[first:-1]))
        predictor.fit(seen, scores[-1][seen])
        errors.append(error(predictor.plan(np.ones(3000, np.bool_)).predictions[300:], scores[-1][300:]))
    assert errors[1] < errors[0]


def test_items_that_were_not_run_before_are_no_obstacle_and_their_predictions_help() -> None:
    whole = models(6, 2000, seed=2)
    scores = whole[:5].copy()
    scores[4, 200:] = np.nan
    # What was expected of the predecessor on the items that it was not run on, by somebody who knew it well.
    predicted = np.where(np.isnan(scores), np.clip(whole[5], 0.3, 0.7), np.nan)
    errors = []
    for known in (None, predicted):
        predictor = Predictor(History(scores, np.arange(2000) % 4, predicted=known))
        predictor.fit(np.arange(100), whole[5][:100])
        predictions = predictor.plan(np.ones(2000, np.bool_)).predictions
        assert np.isfinite(predictions).all()
        errors.append(error(predictions, whole[5]))
    assert errors[1] < errors[0]


def test_an_item_that_nobody_ran_is_predicted_too() -> None:
    scores = models(3, 100)
    scores[:, :10] = np.nan
    assert np.isfinite(Predictor(History(scores)).plan(np.ones(100, np.bool_)).predictions).all()
    with pytest.raises(ValueError, match="no model has a result"):
        Predictor(History(np.full((2, 100), np.nan)))


def test_the_fit_is_the_minimum_and_survives_separable_scores() -> None:
    chance = np.random.default_rng(3)
    values = np.concatenate([np.ones((200, 1)), chance.normal(size=(200, 2))], axis=1)
    scores = (values[:, 1] > 0).astype(float)
    prior = Prior(np.array([0.0, 5.0, -5.0]), np.array([2.0, 1.0, 0.5]))
    found = fitted(values, scores, prior)
    gradient = values.T @ (expit(values @ found) - scores) + prior.precision * (found - prior.centre)
    assert np.abs(gradient).max() < 0.1


def test_weights_are_bounded_from_below() -> None:
    predictions = np.array([0.001, 0.5, 0.999, 0.3])
    weights = neyman_weights(predictions, np.ones(4, np.bool_))
    assert weights.min() >= 0.3
    assert weights.argmax() == 1
    assert neyman_weights(np.zeros(3), np.ones(3, np.bool_)).tolist() == [1, 1, 1]
