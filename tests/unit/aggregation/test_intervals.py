"""Intervals against closed forms, and against what they promise."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregation.intervals import (
    interval_of,
    mean_of,
    standard_error_of,
    student_t_interval,
    wilson_interval,
)

Z95 = 1.959963984540054


def test_wilson_by_hand() -> None:
    # 7 of 10: z² = 3.841459; middle (0.7 + 0.192073) / 1.384146 = 0.644493;
    # reach 1.959964 · √(0.021 + 0.009604) / 1.384146 = 0.247716.
    interval = wilson_interval(7, 10, 0.95)
    assert interval.lower == pytest.approx(0.396778, abs=1e-6)
    assert interval.upper == pytest.approx(0.892209, abs=1e-6)
    assert (interval.method, interval.confidence_level) == ("wilson", 0.95)


def test_wilson_at_the_ends() -> None:
    none, all_of_them = wilson_interval(0, 20, 0.95), wilson_interval(20, 20, 0.95)
    assert none.lower == 0.0
    assert none.upper == pytest.approx(Z95**2 / (20 + Z95**2))
    assert all_of_them.upper == 1.0
    assert all_of_them.lower == pytest.approx(20 / (20 + Z95**2))


@settings(deadline=None)
@given(st.integers(1, 5000), st.floats(0.0, 1.0), st.floats(0.51, 0.999))
def test_wilsons_ends_are_where_the_score_test_turns(count: int, share: float, level: float) -> None:
    successes = round(share * count)
    interval = wilson_interval(successes, count, level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    assert 0.0 <= interval.lower <= successes / count <= interval.upper <= 1.0
    for end in (interval.lower, interval.upper):
        if 0.0 < end < 1.0:
            assert (successes / count - end) ** 2 == pytest.approx(z * z * end * (1 - end) / count, rel=1e-6)


@pytest.mark.parametrize("count", [10, 40, 200])
def test_wilson_covers(count: int) -> None:
    """Exact coverage, summed over all outcomes: near 95 % on average, and never far below inside [0.1, 0.9]."""
    intervals = [wilson_interval(successes, count, 0.95) for successes in range(count + 1)]

    def coverage(p: float) -> float:
        return math.fsum(
            math.comb(count, successes) * p**successes * (1 - p) ** (count - successes)
            for successes, interval in enumerate(intervals)
            if interval.lower <= p <= interval.upper
        )

    coverages = [coverage(p) for p in np.linspace(0.1, 0.9, 161)]
    assert min(coverages) > 0.9
    assert math.fsum(coverages) / len(coverages) == pytest.approx(0.95, abs=0.01)


def test_wilson_covers_in_simulated_runs() -> None:
    runs, count, p = 4000, 60, 0.3
    values = (np.random.default_rng(1).random((runs, count)) < p).astype(float)
    hits = 0
    for run in values:
        interval = interval_of(run.tolist(), 0.95)
        assert interval is not None
        assert interval.method == "wilson"
        hits += interval.lower <= p <= interval.upper
    assert hits / runs == pytest.approx(0.95, abs=0.01 + 4 * math.sqrt(0.95 * 0.05 / runs))


def test_student_t_by_hand() -> None:
    # One degree of freedom is the Cauchy distribution: t = tan(π(p − ½)); two: t = (2p − 1) / √(2p(1 − p)).
    assert student_t_interval(0.0, 1.0, 2, 0.95).upper == pytest.approx(math.tan(math.pi * 0.475))
    assert student_t_interval(0.0, 1.0, 3, 0.9).upper == pytest.approx(0.9 / math.sqrt(2 * 0.95 * 0.05))
    # 0.2, 0.5, 0.7, 0.9: mean 0.575, s² = 0.26750 / 3, standard error 0.149304; t(3, 0.975) = 3.182446.
    interval = interval_of([0.5, 0.7, 0.9, 0.2], 0.95)
    assert interval is not None
    assert interval.lower == pytest.approx(0.575 - 3.182446 * 0.149304, abs=1e-5)
    assert interval.upper == pytest.approx(0.575 + 3.182446 * 0.149304, abs=1e-5)
    assert interval.upper > 1  # not cut to the metric's range
    assert interval.method == "student-t"


def test_student_t_covers_in_simulated_runs() -> None:
    """Exact for normal values, even for eight of them."""
    runs, count, mean = 4000, 8, 0.6
    hits = 0
    for run in np.random.default_rng(2).normal(mean, 0.1, (runs, count)):
        interval = interval_of(run.tolist(), 0.95)
        assert interval is not None
        hits += interval.lower <= mean <= interval.upper
    assert hits / runs == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / runs))


def test_item_means_cover_where_samples_taken_as_items_would_not() -> None:
    """Two levels: items differ in difficulty, and each is sampled four times (Miller 2024)."""
    rng = np.random.default_rng(3)
    runs, items, samples = 1500, 80, 4
    hits = naive_hits = 0
    for _ in range(runs):
        difficulty = rng.beta(0.5, 0.5, items)
        answers = (rng.random((items, samples)) < difficulty[:, None]).astype(float)
        by_item, naive = interval_of(answers.mean(axis=1).tolist(), 0.95), interval_of(answers.ravel().tolist(), 0.95)
        assert by_item is not None
        assert naive is not None
        hits += by_item.lower <= 0.5 <= by_item.upper
        naive_hits += naive.lower <= 0.5 <= naive.upper
    assert hits / runs == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / runs))
    assert naive_hits / runs < 0.8


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.5], [2.0, 2.0, 2.0]])
def test_no_interval_where_no_spread_is_known(values: list[float]) -> None:
    assert interval_of(values, 0.95) is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_binary_item_has_a_wide_interval(value: float) -> None:
    interval = interval_of([value], 0.95)
    assert interval is not None
    assert interval.upper - interval.lower == pytest.approx(Z95**2 / (1 + Z95**2))


def test_standard_error() -> None:
    assert standard_error_of([]) is None
    assert standard_error_of([1.0]) is None
    assert standard_error_of([0.5, 0.5]) == 0.0
    assert standard_error_of([0.0, 1.0]) == pytest.approx(0.5)  # s² = ½, over n = 2
    assert standard_error_of([1.0] * 30 + [0.0] * 70) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))


@settings(deadline=None)
@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=30))
def test_wild_values_give_ordered_intervals(values: list[float]) -> None:
    interval = interval_of(values, 0.95)
    if interval is not None:
        assert interval.lower <= mean_of(values) <= interval.upper
        assert math.isfinite(interval.lower)
        assert math.isfinite(interval.upper)
