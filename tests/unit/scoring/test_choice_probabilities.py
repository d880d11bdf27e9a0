"""How much probability is on right choices, and how good the probabilities are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.contract import ChoicesOutput, Score, ScoringItem
from services.scoring.errors import LogLikelihoodError
from services.scoring.scorers.choice_probabilities import ChoiceProbabilities, ChoiceProbabilitiesParameters


def judge(log_likelihoods: list[float], *gold: int) -> Score:
    output = ChoicesOutput(tuple(log_likelihoods), tuple(f"choice {index}" for index in range(len(log_likelihoods))))
    return ChoiceProbabilities().score(ChoiceProbabilitiesParameters(), ScoringItem(gold_indices=gold), output)


@pytest.mark.parametrize(
    ("probabilities", "gold", "right", "brier", "correct"),
    [
        ([0.5, 0.5], (0,), 0.5, 0.25, 1),
        ([0.5, 0.5], (1,), 0.5, 0.25, 0),  # the first of equals is taken
        ([1.0, 0.0], (0,), 1.0, 0.0, 1),
        ([1.0, 0.0], (1,), 0.0, 1.0, 0),
        ([0.2, 0.3, 0.5], (0, 1), 0.5, 0.25, 0),
        ([0.1, 0.1, 0.1, 0.1], (2,), 0.25, (0.75**2 + 3 * 0.25**2) / 2, 0),  # relative to their sum
        ([0.4, 0.6], (0, 1), 1.0, 0.0, 1),
    ],
)
def test_cases_checked_by_hand(
    probabilities: list[float], gold: tuple[int, ...], right: float, brier: float, correct: float
) -> None:
    score = judge([math.log(each) if each else -math.inf for each in probabilities], *gold)
    assert score.metrics["gold_probability"] == pytest.approx(right)
    assert score.metrics["brier"] == pytest.approx(brier)
    assert score.metrics["confidence"] == pytest.approx(max(probabilities) / sum(probabilities))
    assert score.metrics["correct"] == correct


def test_long_choices_do_not_underflow() -> None:
    assert judge([-2000.0, -2000.0 + math.log(3)], 1).metrics["gold_probability"] == pytest.approx(0.75)


@given(st.lists(st.floats(max_value=0.0), min_size=2, max_size=8), st.data())
def test_every_metric_is_within_0_and_1(values: list[float], data: st.DataObject) -> None:
    gold = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    if all(value == -math.inf for value in values):
        with pytest.raises(LogLikelihoodError):
            judge(values, *gold)
        return
    score = judge(values, *gold)
    assert all(0 <= value <= 1 for value in score.metrics.values())


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=8), st.data())
def test_equals_the_harness_with_one_right_choice(values: list[float], data: st.DataObject) -> None:
    """lm-evaluation-harness: the sum over choices of (softmax - one-hot)^2; its MC2 is exp(right) / sum of exp."""
    gold = data.draw(st.integers(0, len(values) - 1))
    likelihoods = np.exp(np.array(values))
    probabilities = likelihoods / likelihoods.sum()
    score = judge(values, gold)
    assert score.metrics["gold_probability"] == pytest.approx(probabilities[gold])
    assert 2 * score.metrics["brier"] == pytest.approx(np.sum((probabilities - np.eye(len(values))[gold]) ** 2))
