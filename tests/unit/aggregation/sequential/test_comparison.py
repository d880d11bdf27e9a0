"""Pairs of models, and the best of several."""

import numpy as np
import pytest
from numpy.typing import NDArray

from services.aggregation.sequential.comparison import difference_scores
from services.aggregation.sequential.elimination import SuccessiveElimination


def model(size: int, share: float, seed: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(size) < share).astype(float)


def race_of(
    scores: NDArray[np.float64], *, keep: int = 1, alpha: float = 0.05, piece: int = 16
) -> SuccessiveElimination:
    """A race over scores in draw order, [models, items], to its end."""
    race = SuccessiveElimination(scores.shape[1], len(scores), keep=keep, alpha=alpha)
    while not race.is_done:
        part = scores[:, race.count : race.count + piece]
        race.observe(np.where(race.active[:, None], part, np.nan))
    return race


def test_differences_are_scores() -> None:
    a, b = np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])
    assert difference_scores(a, b).tolist() == [0.0, 1.0, 0.5]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_survive_and_the_worst_go_first(keep: int) -> None:
    size, shares = 3000, [0.5, 0.8, 0.55, 0.75, 0.3]
    scores = np.stack([model(size, share, seed) for seed, share in enumerate(shares)])
    race = race_of(scores, keep=keep)
    assert set(np.flatnonzero(race.active)) == ({1} if keep == 1 else {1, 3})
    after = [race.count if each is None else each for each in race.dropped_after]
    assert [each is None for each in race.dropped_after] == race.active.tolist()
    assert sum(after) < 0.5 * size * 5
    assert after[4] == min(after)
    assert race.is_proven_better(1, 4)
    assert race.standing()[4] > 0


def test_models_that_are_alike_stay_until_the_items_are_used_up() -> None:
    race = race_of(np.tile(model(300, 0.5, 1), (3, 1)))
    assert race.count == 300
    assert race.active.sum() >= 1


def test_after_all_items_the_best_are_exactly_the_best() -> None:
    scores = np.stack([model(200, 0.5, seed) for seed in range(4)])
    race = race_of(scores, keep=2)
    means = scores.mean(axis=1)
    assert means[race.active].min() >= means[~race.active].max()


def test_a_failed_item_speaks_against_whoever_it_could_help() -> None:
    scores = np.stack([model(400, 0.9, 1), model(400, 0.2, 2)])
    known = race_of(scores)
    assert known.active.tolist() == [True, False]
    low, high = scores.copy(), scores.copy()
    # Nothing is known of the worse one: it may be the better one.
    low[1], high[1] = 0.0, 1.0
    race = SuccessiveElimination(400, 2)
    race.observe(low, high)
    assert race.active.all()
    assert race.is_done
    assert not race.is_settled


@pytest.mark.parametrize(("keep", "models"), [(1, 4), (2, 5)])
def test_one_of_the_best_is_hardly_ever_dropped(keep: int, models: int) -> None:
    """Models that differ by one item: looked at 25 times, a test of each pair that holds once would drop many."""
    chance, size, wrong, rounds = np.random.default_rng(5), 400, 0, 200
    for _ in range(rounds):
        scores = (chance.random((models, size)) < 0.5).astype(float)
        order = np.argsort(-scores.sum(axis=1), kind="stable")
        cut = scores.sum(axis=1)[order[keep - 1]]
        race = SuccessiveElimination(size, models, keep=keep, alpha=0.2)
        while not race.is_done and race.count < size - 16:
            race.observe(scores[:, race.count : race.count + 16])
        # Dropped although nobody outside the best is as good: wrong.
        wrong += bool((scores.sum(axis=1)[~race.active] > cut).any()) or bool(
            (scores.sum(axis=1)[~race.active] == cut).any() and (scores.sum(axis=1)[race.active] < cut).any()
        )
    assert wrong / rounds < 0.2 + 2 * (0.2 * 0.8 / rounds) ** 0.5
