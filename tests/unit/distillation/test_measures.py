"""Agreement, F1 and AUPRC with their intervals."""

import numpy as np
import pytest

from services.distillation.measures import quality_of

TRUTH = np.array([True, True, False, False])


def test_values_are_those_of_the_textbook() -> None:
    scores = np.array([0.9, 0.4, 0.6, 0.1])
    quality = quality_of(scores >= 0.5, scores, TRUTH, seed=1)
    assert quality is not None
    assert (quality.rows, quality.unsafe, quality.agreement.value) == (4, 2, 0.5)
    assert quality.f1 is not None
    assert quality.f1.value == pytest.approx(2 * 1 / (2 + 2))
    assert quality.auprc is not None
    assert quality.auprc.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_equal_scores_are_one_step_of_the_curve() -> None:
    """Whichever of them comes first: sklearn's average precision says the same."""
    from sklearn.metrics import average_precision_score, f1_score

    source = np.random.default_rng(2)
    for _ in range(20):
        truth = source.random(50) < 0.4
        scores = source.integers(0, 6, 50) / 5
        quality = quality_of(scores >= 0.5, scores, truth, seed=1)
        assert quality is not None
        assert quality.auprc is not None
        assert quality.f1 is not None
        assert quality.auprc.value == pytest.approx(average_precision_score(truth, scores))
        assert quality.f1.value == pytest.approx(f1_score(truth, scores >= 0.5))
        assert quality.auprc.low < quality.auprc.value < quality.auprc.high


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    source = np.random.default_rng(5)
    held = 0
    for seed in range(60):
        truth = source.random(300) < 0.4
        decisions = truth ^ (source.random(300) < 0.1)
        quality = quality_of(decisions, None, truth, seed=seed)
        assert quality is not None
        held += quality.agreement.low <= 0.9 <= quality.agreement.high
    assert 50 <= held <= 60


def test_what_cannot_be_measured_is_none() -> None:
    assert quality_of(np.zeros(0, bool), None, np.zeros(0, bool), seed=1) is None
    quality = quality_of(np.zeros(3, bool), np.zeros(3), np.zeros(3, bool), seed=1)
    assert quality is not None
    assert (quality.f1, quality.auprc, quality.agreement.value) == (None, None, 1.0)
    without_scores = quality_of(TRUTH, None, TRUTH, seed=1)
    assert without_scores is not None
    assert without_scores.auprc is None
