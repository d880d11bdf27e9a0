"""Measures over items against values worked out by hand, by enumeration, or by scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.aggregation.measures.clusters import (
    clustered_standard_error,
    two_level_standard_error,
    two_level_variance,
)
from services.aggregation.measures.items import analyse_items
from services.aggregation.measures.paired import mcnemar_exact, paired_difference, sign_flip_p_value
from services.aggregation.measures.passes import pass_at_k, pass_power_k, pass_rates
from services.aggregation.measures.ranks import kendall_tau_b, spearman_rho


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_measures_equal_the_share_of_all_subsets(results: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(results)))
    subsets = list(itertools.combinations(results, k))
    [at], [power] = pass_at_k([sum(results)], [len(results)], k), pass_power_k([sum(results)], [len(results)], k)
    assert at == pytest.approx(sum(map(any, subsets)) / len(subsets))
    assert power == pytest.approx(sum(map(all, subsets)) / len(subsets))


def test_pass_rates_are_means_over_items_for_powers_of_two_and_all_samples() -> None:
    # One item of three right ones of five, two without any, one with six samples, all right.
    rates = {each.k: each for each in pass_rates({(3, 5): 1, (0, 5): 2, (6, 6): 1}, 0.95)}
    assert sorted(rates) == [1, 2, 4, 5]
    assert rates[1].any_of == pytest.approx((0.6 + 1) / 4)
    assert rates[1].all_of == pytest.approx((0.6 + 1) / 4)
    assert rates[2].any_of == pytest.approx((0.9 + 1) / 4)
    assert rates[2].all_of == pytest.approx((0.3 + 1) / 4)
    assert (rates[5].any_of, rates[5].all_of, rates[5].item_count) == (0.5, 0.25, 4)
    assert rates[5].any_interval is not None
    assert rates[5].any_interval.method == "wilson"
    assert rates[2].any_interval is not None
    assert rates[2].any_interval.method == "student-t"
    assert pass_rates({}, 0.95) == ()


def test_pass_measures_need_enough_samples() -> None:
    with pytest.raises(ValueError, match="at least k = 5"):
        pass_at_k([1], [4], 5)
    with pytest.raises(ValueError, match="successes"):
        pass_power_k([5], [4], 2)
    assert pass_at_k([10], [100_000], 1)[0] == pytest.approx(1e-4)


def test_clusters_of_one_give_the_plain_standard_error_and_larger_ones_more() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    plain = float(stats.sem(values))
    assert clustered_standard_error(values, np.arange(6)) == pytest.approx(plain)
    alike = np.repeat(values, 4)
    by_four = clustered_standard_error(alike, np.repeat(np.arange(6), 4))
    assert by_four == pytest.approx(plain)
    assert by_four is not None
    assert by_four > float(stats.sem(alike)) * 1.9
    assert clustered_standard_error(values, np.zeros(6, np.int64)) is None


def test_clustered_standard_errors_are_those_of_statsmodels() -> None:
    """Against statsmodels 0.15.0: OLS on a constant, cov_type="cluster" with its correction for few clusters."""
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1])
    clusters = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4])
    assert clustered_standard_error(values, clusters) == pytest.approx(0.06211299937499418)


def test_two_levels_are_told_apart() -> None:
    chance = np.random.default_rng(5)
    chances = np.where(chance.random(4000) < 0.5, 0.9, 0.3)
    samples = (chance.random((4000, 8)) < chances[:, None]).astype(float)
    between, within = two_level_variance(samples)
    assert between == pytest.approx(0.09, abs=0.01)
    assert within == pytest.approx((0.09 + 0.21) / 2, abs=0.01)
    # The two levels together are the spread of the items' means.
    assert two_level_standard_error(between, within, 4000, 8) == pytest.approx(float(stats.sem(samples.mean(axis=1))))
    with pytest.raises(ValueError, match="two samples"):
        two_level_variance(samples[:, :1])


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    count = only_a + only_b
    expected = stats.binomtest(only_a, count, 0.5).pvalue if count else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


def test_sign_flips_agree_with_all_flips() -> None:
    differences = np.array([0.4, 0.1, -0.2, 0.3, 0.5, 0.05, 0.0, -0.1])
    moved = differences[differences != 0]
    sums = [abs(float(np.dot(signs, moved))) for signs in itertools.product((-1, 1), repeat=len(moved))]
    exact = np.mean([each >= abs(moved.sum()) - 1e-12 for each in sums])
    assert sign_flip_p_value(differences, resamples=40_000) == pytest.approx(float(exact), abs=0.01)
    assert sign_flip_p_value(np.zeros(4)) == 1.0


def test_a_paired_difference_by_hand() -> None:
    a, b = np.array([1.0, 0, 1, 0, 0, 0, 1, 1]), np.array([1.0, 1, 1, 1, 1, 0, 1, 0])
    found = paired_difference(a, b)
    assert (found.mean, found.method) == (0.25, "mcnemar-exact")
    assert found.p_value == pytest.approx(mcnemar_exact(1, 3))
    assert found.standard_error == pytest.approx(float(stats.sem(b - a)))
    assert found.least_detectable == pytest.approx((1.95996 + 0.84162) * found.standard_error, rel=1e-4)
    assert paired_difference(a / 2, b).method == "sign-flip-permutation"
    with pytest.raises(ValueError, match="same items"):
        paired_difference(a, b[:3])


def test_items_are_judged_by_the_models() -> None:
    ability = np.linspace(0, 1, 8)
    scores = np.stack(
        [np.ones(8), np.zeros(8), ability > 0.5, ability < 0.5, ability > 0.3, ability > 0.7], axis=1
    ).astype(float)
    found = analyse_items(scores)
    assert found.is_saturated.tolist() == [True, False, False, False, False, False]
    assert found.is_dead.tolist() == [False, True, False, False, False, False]
    assert found.is_suspicious.tolist() == [False, False, False, True, False, False]
    assert found.difficulty[:3].tolist() == [0.0, 1.0, 0.5]
    assert math.isnan(found.discrimination[0])
    others = np.delete(scores, 2, axis=1).mean(axis=1)
    assert found.discrimination[2] == pytest.approx(float(np.corrcoef(scores[:, 2], others)[0, 1]))


def test_items_that_some_models_did_not_run_are_judged_by_those_that_did() -> None:
    chance = np.random.default_rng(8)
    scores = (chance.random((9, 40)) < np.linspace(0.2, 0.9, 9)[:, None]).astype(float)
    scores[chance.random((9, 40)) < 0.3] = np.nan
    scores[:, 5] = np.nan
    scores[4:, 6], scores[:4, 6] = np.nan, 1.0
    found = analyse_items(scores)
    assert math.isnan(found.difficulty[5])
    assert math.isnan(found.discrimination[5])
    assert not any(flags[5] for flags in (found.is_saturated, found.is_dead, found.is_suspicious))
    assert found.is_saturated[6]
    has = np.isfinite(scores[:, 7])
    others = np.nanmean(np.delete(scores, 7, axis=1), axis=1)
    assert found.difficulty[7] == pytest.approx(1 - float(np.nanmean(scores[:, 7])))
    expected = float(np.corrcoef(scores[has, 7], others[has])[0, 1])
    assert found.discrimination[7] == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=15))
def test_rank_correlations_agree_with_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(each, dtype=float) for each in zip(*pairs, strict=True))
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert math.isnan(kendall_tau_b(a, b))
        assert math.isnan(spearman_rho(a, b))
        return
    assert kendall_tau_b(a, b) == pytest.approx(float(stats.kendalltau(a, b).statistic))
    assert spearman_rho(a, b) == pytest.approx(float(stats.spearmanr(a, b).statistic))
