"""Pairs of models, and the best of several."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.sequential.comparison import difference_scores
from services.aggregation.sequential.elimination import SuccessiveElimination


def model(size: int, share: float, seed: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(size) < share).astype(float)


def race_of(
    scores: NDArray[np.float64], *, keep: int = 1, alpha: float = 0.05, tolerance: float = 0.0, piece: int = 16
) -> SuccessiveElimination:
    """A race over scores in draw order, [models, items], to its end."""
    race = SuccessiveElimination(scores.shape[1], len(scores), keep=keep, alpha=alpha, tolerance=tolerance)
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


@pytest.mark.parametrize("keep", [1, 2])
def test_with_a_tolerance_models_that_are_alike_are_soon_called_so(keep: int) -> None:
    same = model(4000, 0.5, 1)
    race = race_of(np.stack([model(4000, 0.2, 2), same, same, same]), keep=keep, tolerance=0.02)
    assert race.is_settled
    assert race.count < 1000
    assert race.active.tolist() == [False, True, True, True]
    assert race.named.tolist() == [False, True, keep == 2, False]


def test_a_tolerance_ends_a_tie_of_models_that_differ_on_many_items() -> None:
    scores = np.stack([model(20_000, 0.5, 1), model(20_000, 0.5, 2)])
    race = race_of(scores, tolerance=0.05, piece=100)
    assert race.active.all()
    assert race.count < 15_000
    assert scores.mean(axis=1)[race.named][0] >= scores.mean(axis=1).max() - 0.05


def test_tolerances_do_not_add_up() -> None:
    """Each model is within the tolerance of the next, and the first is not within that of the last."""
    means, size = [0.500, 0.508, 0.516], 5000
    scores = np.repeat(np.array(means)[:, None], size, axis=1)
    race = race_of(scores, tolerance=0.01)
    assert not race.named[0]
    assert race.named.sum() == 1


@given(
    shares=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5),
    keep=st.integers(1, 4),
    tolerance=st.sampled_from([0.0, 0.003, 0.05, 0.3, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_a_race_over_all_items_names_as_many_as_are_wanted(
    shares: list[float], keep: int, tolerance: float, seed: int
) -> None:
    keep = min(keep, len(shares) - 1)
    scores = np.stack([model(200, share, seed + number) for number, share in enumerate(shares)])
    race = race_of(scores, keep=keep, tolerance=tolerance)
    assert race.is_settled
    assert race.named.sum() == keep
    assert not (race.named & ~race.active).any()
    if race.count == 200:
        best = np.sort(scores.mean(axis=1))[-keep]
        assert scores.mean(axis=1)[race.named].min() >= best - tolerance - 1e-9


def test_failed_items_keep_a_tie_open_that_they_may_break() -> None:
    same = model(400, 0.5, 1)
    low, high = np.stack([same, same]), np.stack([same, same])
    low[1, :100], high[1, :100] = 0.0, 1.0
    race = SuccessiveElimination(400, 2, tolerance=0.05)
    race.observe(low, high)
    assert race.is_done
    assert not race.is_settled
    assert not race.named.any()


@pytest.mark.parametrize(("keep", "leads"), [(1, [0, 21]), (1, [0, 19, 38]), (2, [0, 0, 21, 21])])
def test_who_is_worse_by_more_than_the_tolerance_is_hardly_ever_named(keep: int, leads: list[int]) -> None:
    """The tolerance is 20 items: the worst is named wrongly, though each of three is within it of the next."""
    chance, size, alpha, rounds = np.random.default_rng(6), 400, 0.1, 100
    named_wrongly = proven_wrongly = 0
    worst, best = leads.index(min(leads)), leads.index(max(leads))
    for _ in range(rounds):
        scores = np.stack([chance.permutation(np.arange(size) < 180 + lead) for lead in leads]).astype(float)
        race = race_of(scores, keep=keep, alpha=alpha, tolerance=20 / size, piece=50)
        named_wrongly += bool(race.named[worst])
        proven_wrongly += race.is_within_tolerance(worst, best)
    spread = 2 * (alpha * (1 - alpha) / rounds) ** 0.5
    assert named_wrongly / rounds < alpha + spread
    assert proven_wrongly / rounds < alpha / 2 + spread


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
