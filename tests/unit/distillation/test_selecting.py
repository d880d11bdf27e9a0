"""Which texts a teacher is asked about next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.distillation.selecting import choose_next

PROBABILITIES = np.linspace(0, 1, 101)


def test_the_least_sure_are_chosen() -> None:
    chosen = choose_next(PROBABILITIES, 5, 0.0, np.random.default_rng(0))
    assert sorted(chosen.tolist()) == [48, 49, 50, 51, 52]


def test_a_share_is_drawn_from_all_the_others() -> None:
    chosen = [choose_next(PROBABILITIES, 10, 0.5, np.random.default_rng(seed)).tolist() for seed in range(200)]
    unsure = {48, 49, 50, 51, 52}
    assert all(unsure <= set(each) for each in chosen)
    drawn = np.concatenate([sorted(set(each) - unsure) for each in chosen])
    assert (drawn < 20).any()
    assert (drawn > 80).any()


def test_equals_are_chosen_by_chance() -> None:
    chosen = {choose_next(np.full(100, 0.5), 1, 0.0, np.random.default_rng(seed))[0] for seed in range(50)}
    assert len(chosen) > 20


@given(st.integers(0, 60), st.integers(0, 70), st.floats(0, 1), st.integers(0, 9))
def test_as_many_as_asked_for_and_none_twice(candidates: int, count: int, random_share: float, seed: int) -> None:
    source = np.random.default_rng(seed)
    chosen = choose_next(source.random(candidates), count, random_share, source)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, candidates)
    assert all(0 <= each < candidates for each in chosen)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_chooses_the_same(seed: int) -> None:
    first, second = (choose_next(PROBABILITIES, 20, 0.5, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, second)
