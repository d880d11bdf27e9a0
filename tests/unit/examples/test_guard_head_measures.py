"""The guard head's measures against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.guard_head.measures import (
    at_threshold,
    average_precision,
    calibration_error,
    calm_threshold,
    log_loss,
    resampled_interval,
)
from examples.guard_head.overlap import near_duplicates

SCORES = np.array([0.9, 0.8, 0.7, 0.3])
LABELS = np.array([True, False, True, False])


def test_average_precision_by_hand() -> None:
    # Recall rises at rank 1 (precision 1) and rank 3 (precision 2/3).
    assert average_precision(SCORES, LABELS) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # All scores equal: one step, whose precision is the share of positives.
    assert average_precision(np.full(4, 0.5), LABELS) == pytest.approx(0.5)
    assert math.isnan(average_precision(SCORES, np.zeros(4, bool)))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.6, 0.9]), st.booleans()), min_size=2, max_size=12))
def test_average_precision_does_not_depend_on_the_order(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if labels.any():
        assert average_precision(scores, labels) == pytest.approx(average_precision(scores[::-1], labels[::-1]))


def test_a_threshold_by_hand() -> None:
    at = at_threshold(SCORES, LABELS, 0.75)
    assert (at.precision, at.recall, at.false_positive_rate) == (0.5, 0.5, 0.5)
    assert at.f1 == 0.5
    assert math.isnan(at_threshold(SCORES, np.ones(4, bool), 0.5).false_positive_rate)


def test_a_calm_threshold_is_the_highest_that_costs_little() -> None:
    # F1 is 0.8 from 0.31 to 0.70, and 2/3 up to 0.30 and from 0.81 to 0.90.
    assert calm_threshold(SCORES, LABELS, 0.0) == pytest.approx(0.70)
    assert calm_threshold(SCORES, LABELS, 0.14) == pytest.approx(0.90)


def test_calibration_error_and_log_loss_by_hand() -> None:
    scores, labels = np.array([0.05, 0.95, 1.0]), np.array([False, True, False])
    # Bins: {0.05} off by 0.05; {0.95, 1.0} mean 0.975, half of them positive.
    assert calibration_error(scores, labels) == pytest.approx((0.05 + 2 * 0.475) / 3)
    assert log_loss(np.array([0.5, 0.5]), np.array([True, False])) == pytest.approx(math.log(2))


def test_an_interval_holds_the_measure_and_narrows_with_rows() -> None:
    chance = np.random.default_rng(2)
    labels = chance.random(400) < 0.5
    scores = np.where(labels, 0.6, 0.4) + chance.normal(0, 0.3, 400)
    low, high = resampled_interval(scores, labels, average_precision, resamples=300)
    assert low < average_precision(scores, labels) < high
    few_low, few_high = resampled_interval(scores[:40], labels[:40], average_precision, resamples=300)
    assert few_high - few_low > high - low


def test_near_duplicates_share_most_words() -> None:
    pairs = near_duplicates(["How can I bake a cake?", "Something else"], ["how can I BAKE a pie", "unrelated"])
    assert [(left, right, round(score, 3)) for left, right, score in pairs] == [(0, 0, round(5 / 7, 3))]
