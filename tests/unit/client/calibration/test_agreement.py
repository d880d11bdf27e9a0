"""Agreement by published worked examples, by hand, and at its limits."""

import math
from statistics import fmean

import pytest
from evalfleet.calibration.agreement import bootstrap_interval, cohen_kappa, fleiss_kappa, wilson_interval
from hypothesis import given
from hypothesis import strategies as st

# Fleiss 1971's scheme on 10 subjects, 14 raters and 5 categories, as reference works reproduce it: kappa 0.210.
FLEISS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip


def pairs(table: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    return [pair for pair, count in table.items() for _ in range(count)]


def test_kappa_of_a_two_by_two_table() -> None:
    # Observed 35/50; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    table = {("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}
    assert cohen_kappa(pairs(table)) == pytest.approx(0.4)


def test_kappa_weighted_by_squares_forgives_what_is_near() -> None:
    values = {str(each): float(each) for each in range(1, 4)}
    near = [("1", "2"), ("2", "2"), ("3", "3"), ("1", "1")]
    far = [("1", "3"), ("2", "2"), ("3", "3"), ("1", "1")]
    assert cohen_kappa(near) == cohen_kappa([("a", "b"), ("b", "b"), ("c", "c"), ("a", "a")])
    assert cohen_kappa(near, values) == pytest.approx(1 - 4 / 20)
    assert cohen_kappa(near, values) > cohen_kappa(far, values)  # type: ignore[operator]


def test_kappa_where_chance_agrees_on_everything() -> None:
    assert cohen_kappa([("a", "a")] * 5) is None
    assert cohen_kappa([]) is None
    assert fleiss_kappa([["a", "a"]] * 5) is None
    assert fleiss_kappa([]) is None


def test_fleiss_kappa_of_the_published_example() -> None:
    ratings = [[category for category, count in enumerate(row) for _ in range(count)] for row in FLEISS]
    assert fleiss_kappa(ratings) == pytest.approx(0.210, abs=0.0005)


@pytest.mark.parametrize("ratings", [[["a"]], [["a", "b"], ["a"]]])
def test_fleiss_kappa_needs_as_many_ratings_of_each_item(ratings: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="same number of ratings"):
        fleiss_kappa(ratings)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_at_most_one_and_one_only_for_perfect_agreement(some: list[tuple[str, str]]) -> None:
    kappa = cohen_kappa(some)
    assert kappa is None or kappa <= 1 + 1e-12
    if kappa is not None:
        assert math.isclose(kappa, 1.0) == all(one == other for one, other in some)


def test_wilson_by_hand() -> None:
    lower, upper = wilson_interval(8, 10)
    assert (lower, upper) == pytest.approx((0.4902, 0.9433), abs=0.0005)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=0.0005)


def test_a_bootstrap_is_repeatable_and_may_have_nothing_to_say() -> None:
    values = [0.0, 1.0] * 50
    interval = bootstrap_interval(values, fmean)
    assert interval is not None
    assert interval == bootstrap_interval(values, fmean)
    assert 0.38 < interval.lower < 0.45 < 0.55 < interval.upper < 0.62
    assert bootstrap_interval([], fmean) is None
    assert bootstrap_interval(values, lambda some: None) is None
