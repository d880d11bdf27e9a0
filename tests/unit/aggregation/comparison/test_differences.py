"""The numbers of a comparison agree with published and independent ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.aggregation.comparison.differences import holm, paired, unpaired
from services.aggregation.comparison.score_interval import paired_score_interval


def test_the_score_interval_of_a_published_table() -> None:
    # 21 children before and after a treatment: 1 only before, 7 only after (Fagerland et al. 2014, table of examples).
    interval = paired_score_interval(1, 7, 21, 0.95)
    assert (interval.lower, interval.upper) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_score_interval_holds_the_difference_and_mirrors(b: int, c: int, both: int, level: float) -> None:
    count = max(1, b + c + both)
    interval, mirrored = paired_score_interval(b, c, count, level), paired_score_interval(c, b, count, level)
    assert -1 <= interval.lower <= (b - c) / count <= interval.upper <= 1
    assert (interval.lower, interval.upper) == pytest.approx((-mirrored.upper, -mirrored.lower), abs=1e-9)
    assert interval.upper > interval.lower


def test_identical_runs_are_not_certain_to_be_identical_elsewhere() -> None:
    ones = np.ones(400)
    found = paired(ones, ones, None, 0.95)
    assert found.interval is not None
    assert found.interval.upper == pytest.approx(1.96**2 / (400 + 1.96**2), rel=1e-3)
    assert (found.difference, found.p_value, found.effect_size) == (0.0, 1.0, None)


def test_shares_are_compared_by_t_and_permutation() -> None:
    chance = np.random.default_rng(1)
    base = chance.random(200)
    variant = np.clip(base + chance.normal(0.02, 0.1, 200), 0, 1)
    found = paired(base, variant, None, 0.9)
    reference = stats.ttest_rel(variant, base)
    limits = reference.confidence_interval(0.9)
    assert found.interval is not None
    assert (found.interval.lower, found.interval.upper) == pytest.approx((limits.low, limits.high))
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.01)
    assert (found.interval.method, found.p_value_method) == ("paired-t", "sign-flip-permutation")
    assert found.variant_higher_count + found.base_higher_count == 200


def test_right_and_wrong_are_compared_exactly() -> None:
    base = np.array([1.0] * 60 + [0.0] * 40)
    variant = np.array([1.0] * 50 + [0.0] * 10 + [1.0] * 3 + [0.0] * 37)
    found = paired(base, variant, None, 0.95)
    assert found.p_value == pytest.approx(stats.binomtest(3, 13).pvalue)
    assert (found.variant_higher_count, found.base_higher_count, found.p_value_method) == (3, 10, "mcnemar-exact")
    assert found.interval is not None
    assert found.interval.method == "tango"


def test_items_that_belong_together_widen_the_interval() -> None:
    chance = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), 10)
    base = np.zeros(400)
    variant = np.repeat(chance.integers(0, 2, 40), 10).astype(float)
    alone, together = paired(base, variant, None, 0.95), paired(base, variant, clusters, 0.95)
    assert together.standard_error is not None
    assert alone.standard_error is not None
    assert together.standard_error > 2.5 * alone.standard_error
    assert (together.cluster_count, together.p_value_method) == (40, "cluster-sign-flip-permutation")
    assert together.p_value is not None
    # With one item a cluster nothing changes.
    single = paired(base, variant, np.arange(400), 0.95)
    assert single.standard_error == pytest.approx(alone.standard_error)


def test_two_samples_are_compared_by_welch() -> None:
    chance = np.random.default_rng(3)
    base, variant = chance.random(80), chance.random(50) * 0.7
    found = unpaired(base, variant, 0.95)
    reference = stats.ttest_ind(variant, base, equal_var=False)
    limits = reference.confidence_interval(0.95)
    assert found.p_value == pytest.approx(reference.pvalue)
    assert found.interval is not None
    assert (found.interval.lower, found.interval.upper) == pytest.approx((limits.low, limits.high))


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 7)])
def test_too_few_items_have_no_interval(sizes: tuple[int, int]) -> None:
    found = unpaired(np.ones(sizes[0]), np.zeros(sizes[1]), 0.95)
    assert (found.interval, found.p_value, found.item_count) == (None, None, sum(sizes))
    assert paired(np.empty(0), np.empty(0), None, 0.95).difference is None
    one = paired(np.array([0.5]), np.array([0.25]), None, 0.95)
    assert (one.interval, one.difference) == (None, -0.25)


def test_what_could_have_been_found_is_found_four_times_in_five() -> None:
    chance = np.random.default_rng(4)
    deviation, count, found = 0.3, 250, 0
    least = paired(np.zeros(count), chance.normal(0, deviation, count), None, 0.95).least_detectable
    assert least is not None
    for _ in range(400):
        differences = chance.normal(least, deviation, count)
        found += abs(differences.mean()) > stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5
    assert found / 400 == pytest.approx(0.8, abs=0.08)


def test_p_values_of_several_comparisons_grow() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
