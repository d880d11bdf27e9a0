"""The draw order: weighted, without replacement, reproducible, and free to change its weights on the way."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregation.sequential.draws import ExponentialRace


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.integers(0, 2**32), st.integers(1, 50))
def test_every_item_is_drawn_once_and_batches_do_not_change_the_order(
    weights: list[float], seed: int, count: int
) -> None:
    race, speeds = ExponentialRace(len(weights), seed), np.array(weights)
    drawn: list[int] = []
    while len(batch := race.draw(speeds, count)):
        drawn += batch.tolist()
        assert race.left.sum() == len(weights) - len(drawn)
    assert sorted(drawn) == list(range(len(weights)))
    assert drawn == ExponentialRace(len(weights), seed).draw(speeds, len(weights)).tolist()


def test_draws_follow_the_weights_of_the_moment() -> None:
    first, second = Counter[int](), Counter[int]()
    for seed in range(3000):
        race = ExponentialRace(3, seed)
        first[int(race.draw(np.array([1.0, 2.0, 3.0]), 1)[0])] += 1
        left = race.left
        if left[0] and left[1]:
            # Item 2 was drawn; from now on item 0 is three times as likely as item 1.
            second[int(race.draw(np.array([3.0, 1.0, 1.0]), 1)[0])] += 1
    assert first[2] / 3000 == pytest.approx(1 / 2, abs=0.03)
    assert first[0] / 3000 == pytest.approx(1 / 6, abs=0.03)
    assert second[0] / second.total() == pytest.approx(3 / 4, abs=0.03)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_possible(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ExponentialRace(2, 0).draw(np.array([1.0, wrong]), 1)
