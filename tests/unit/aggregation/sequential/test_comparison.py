"""Pairs of models: no worse, better, and the best of several."""

import numpy as np
import pytest
from numpy.typing import NDArray

from services.aggregation.sequential.comparison import (
    as_difference,
    beats,
    difference_predictions,
    difference_rule,
    difference_scores,
    judge_differences,
)
from services.aggregation.sequential.elimination import SuccessiveElimination
from services.aggregation.sequential.questions import DecisionState
from services.aggregation.sequential.task import SequentialTask


def model(size: int, share: float, seed: int) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(size) < share).astype(float)


def test_differences_are_scores() -> None:
    a, b = np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])
    assert difference_scores(a, b).tolist() == [0.0, 1.0, 0.5]
    assert as_difference(float(difference_scores(a, b).mean())) == pytest.approx(float((b - a).mean()))
    predictions, variances = difference_predictions(np.array([0.9]), np.array([0.6]))
    assert predictions == pytest.approx([0.35])
    assert variances == pytest.approx([(0.09 + 0.24) / 4])


def test_a_variant_that_lost_nothing_is_found_no_worse_early_and_one_that_did_is_not() -> None:
    a = model(6000, 0.7, 1)
    same, worse = a.copy(), a * model(6000, 0.95, 2)
    same[:30] = 1 - same[:30]
    order = np.random.default_rng(3).permutation(6000)
    for variant, expected in ((same, DecisionState.PASSED), (worse, DecisionState.FAILED)):
        differences = difference_scores(a, variant)[order]
        decision = judge_differences(differences, differences, 6000, difference_rule(0.01, 0.05))
        assert decision.state is expected
        assert (decision.decided_after or 0) < 3000
        task = SequentialTask(6000, 4, (difference_rule(0.01, 0.05),))
        task.begin_batch(count=6000)
        [early] = task.observe(difference_scores(a, variant)[task.next_draws(6000).items])
        assert early.state is expected


def test_ranges_that_do_not_overlap_decide() -> None:
    assert beats((0.6, 0.7), (0.4, 0.5)) is True
    assert beats((0.4, 0.5), (0.6, 0.7)) is False
    assert beats((0.4, 0.6), (0.5, 0.7)) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_survive_and_the_worst_go_first(keep: int) -> None:
    size, shares = 3000, [0.5, 0.8, 0.55, 0.75, 0.3]
    scores = np.stack([model(size, share, seed) for seed, share in enumerate(shares)])
    race = SuccessiveElimination(size, 5, keep=keep)
    spent, left_after = 0, dict[int, int]()
    while not race.is_done:
        part = slice(race.count, race.count + 50)
        spent += int(race.active.sum()) * 50
        active = race.observe(np.where(race.active[:, None], scores[:, part], np.nan))
        for each in np.flatnonzero(~active):
            left_after.setdefault(int(each), race.count)
    assert set(np.flatnonzero(race.active)) == ({1} if keep == 1 else {1, 3})
    assert spent < 0.5 * size * 5
    assert left_after[4] == min(left_after.values())
    assert race.is_proven_better(1, 4)
    assert race.standing()[4] > 0


def test_models_that_are_alike_stay_until_the_items_are_used_up() -> None:
    scores = np.tile(model(300, 0.5, 1), (3, 1))
    race = SuccessiveElimination(300, 3)
    while not race.is_done:
        race.observe(scores[:, race.count : race.count + 60])
    assert race.active.sum() >= 1
    assert race.count == 300
