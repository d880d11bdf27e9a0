"""Figures of whole sets: by hand, by the harness's own scores, and how often their intervals hold the truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.measures import set_figures
from services.aggregation.measures.set_figures import (
    BINS,
    Figure,
    ResampleBudget,
    calibration_error,
    ratio,
    signed_ratio,
    signed_share,
)

LEVEL = 0.95


def rows(*values: Any) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def limits(figure: Figure | None) -> tuple[float, float]:
    assert figure is not None
    assert figure.interval is not None
    return figure.interval.lower, figure.interval.upper


def test_bias_counts_what_goes_with_the_stereotype_against_what_goes_against_it() -> None:
    # Of ten items six name somebody: four with the stereotype, two against it.
    items = rows(*[(1, 0)] * 4, *[(0, 1)] * 2, *[(0, 0)] * 4)
    share, among = signed_share(items, LEVEL), signed_ratio(items, LEVEL)
    assert share is not None
    assert among is not None
    assert share.value == pytest.approx(0.2)
    # The paper's (1 - accuracy) · (2 n_biased / n_named - 1): in an ambiguous context those who name are wrong.
    assert share.value == pytest.approx((1 - 4 / 10) * among.value)
    assert among.value == pytest.approx(2 * 4 / 6 - 1)
    # Newcombe's and Tango's tables are of such differences; Wilson's of 4 in 6 is 0.2999 to 0.9032.
    lower, upper = limits(among)
    assert lower == pytest.approx(2 * 0.29999 - 1, abs=1e-3)
    assert upper == pytest.approx(2 * 0.90323 - 1, abs=1e-3)
    lower, upper = limits(share)
    assert -0.35 < lower < share.value < upper < 0.65


def test_bias_of_nobody_named_is_unknown_and_that_of_samples_has_an_interval() -> None:
    assert signed_ratio(rows((0, 0), (0, 0)), LEVEL) is None
    means = rows((0.5, 0.25), (1, 0), (0, 0.5), (0.25, 0.25))
    for figure in (signed_share(means, LEVEL), signed_ratio(means, LEVEL)):
        lower, upper = limits(figure)
        assert figure is not None
        assert lower < figure.value < upper


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_the_mean_gap_of_bins(answers: list[tuple[float, bool]]) -> None:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in answers:
        bins.setdefault(min(int(confidence * BINS), BINS - 1), []).append((confidence, right))
    gaps = [
        len(each) * abs(sum(right for _, right in each) / len(each) - sum(sure for sure, _ in each) / len(each))
        for each in bins.values()
    ]
    figure = calibration_error(rows(*answers), LEVEL, ResampleBudget())
    assert figure is not None
    assert figure.value == pytest.approx(sum(gaps) / len(answers), abs=1e-12)
    if figure.interval is not None:
        assert 0 <= figure.interval.lower <= figure.value <= figure.interval.upper <= 1 + 1e-12


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_the_interval_of_a_calibration_error_mostly_holds_the_true_one(
    gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_figures, "_DRAWN_VALUES", 0)
    held, runs, count = 0, 40, 200
    random = np.random.default_rng(7)
    for _ in range(runs):
        confidence = random.uniform(0.5, 1.0, count)
        right = random.uniform(size=count) < confidence - gap
        lower, upper = limits(calibration_error(np.column_stack([confidence, right]), LEVEL, ResampleBudget()))
        held += lower <= gap <= upper
    assert held >= 0.85 * runs


@pytest.mark.parametrize("wrong", [(-0.1, 1), (90, 1), (0.5, 2), (0.5, -1), (math.nan, 1)])
def test_what_is_no_probability_has_no_calibration(wrong: tuple[float, float]) -> None:
    assert calibration_error(rows((0.5, 1), wrong), LEVEL, ResampleBudget()) is None


@pytest.mark.parametrize("wrong", [(-1, 1), (1, -1), (2, 0), (0, math.nan)])
def test_what_is_no_share_has_no_bias(wrong: tuple[float, float]) -> None:
    assert signed_share(rows((1, 0), wrong), LEVEL) is None
    assert signed_ratio(rows((1, 0), wrong), LEVEL) is None


def test_resampling_ends_where_its_budget_does() -> None:
    answers = rows((0.9, 1), (0.8, 0))
    budget = ResampleBudget(1_500_000)
    first, second = (calibration_error(answers, LEVEL, budget) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.interval is not None
    assert second == Figure(first.value, None)
    assert budget.values_left == 1_500_000 - 1000 * 1002


def test_whole_sets_overdraw_the_budget_and_not_without_end() -> None:
    budget = ResampleBudget(may_overdraw=True)
    assert [budget.take(1_000_000) for _ in range(6)] == [200] * 4 + [0] * 2
    assert budget.take(1000) == 1000


def test_the_same_answers_have_the_same_interval() -> None:
    answers = rows((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1))
    assert calibration_error(answers, LEVEL, ResampleBudget()) == calibration_error(answers, LEVEL, ResampleBudget())
    one = calibration_error(answers[:1], LEVEL, ResampleBudget())
    assert one is not None
    assert one.interval is None


def test_a_ratio_weighs_items_by_their_size() -> None:
    figure = ratio(rows((10, 5), (2, 4), (6, 6)), LEVEL)
    assert figure is not None
    assert figure.value == pytest.approx(18 / 15)
    residuals = [10 - 1.2 * 5, 2 - 1.2 * 4, 6 - 1.2 * 6]
    error = math.sqrt(3 / 2 * sum(each**2 for each in residuals)) / 15
    lower, upper = limits(figure)
    assert (upper - lower) / 2 == pytest.approx(4.302653 * error, rel=1e-6)
    assert ratio(rows((1, 0), (2, 0)), LEVEL) is None
    alone = ratio(rows((3, 2)), LEVEL)
    assert alone == Figure(1.5, None)
    with np.errstate(over="ignore"):
        assert ratio(rows((1e200, 1), (0, 1)), LEVEL) == Figure(5e199, None)


def test_the_interval_of_a_ratio_mostly_holds_the_true_one() -> None:
    held, runs = 0, 200
    random = np.random.default_rng(6)
    for _ in range(runs):
        sizes = random.integers(20, 200, 50)
        sums = sizes * 0.7 + random.normal(0, 0.1, 50) * sizes
        lower, upper = limits(ratio(np.column_stack([sums, sizes]), LEVEL))
        held += lower <= 0.7 <= upper
    assert held >= 0.91 * runs
