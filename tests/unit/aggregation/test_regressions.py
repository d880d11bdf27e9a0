"""The regression watch: few false alarms over a whole training run, real drops found soon."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from services.aggregation.sequential.regressions import RegressionWatch, alarm_threshold, drop_evidence

Values = NDArray[np.float64]

ITEMS = 1000
TOLERANCE = 0.01


def checkpoints(means: list[float], seed: int, *, flips: float = 0.1, items: int = ITEMS) -> Iterator[Values]:
    """Results of checkpoints on items drawn at random from endless questions, each as hard as it is.

    An item is right where the checkpoint's ability is above its difficulty, but for a share of ``flips`` that is right
    or wrong by chance, anew at each checkpoint. The expected score is exactly the mean.
    """
    chance = np.random.default_rng(seed)
    difficulty = chance.random(items)
    for mean in means:
        wobbles = chance.random(items) < flips
        yield np.where(wobbles, chance.random(items) < mean, difficulty < mean).astype(float)


def alarms(means: list[float], seed: int, *, items: int = ITEMS, rate: float = 0.05) -> list[int]:
    watch = RegressionWatch(TOLERANCE)
    order = np.arange(items)
    found = []
    for index, scores in enumerate(checkpoints(means, seed, items=items)):
        suspicion = watch.observe(scores, order)
        if suspicion is not None and suspicion.log_evidence >= alarm_threshold(index, rate):
            found.append(index)
            watch.restart(suspicion.after_count)
    return found


def test_the_rate_is_spent_and_no_more() -> None:
    spent = sum(np.exp(-alarm_threshold(index, 0.05, 3)) * 3 for index in range(1, 100_000))
    assert spent == pytest.approx(0.05, rel=1e-4)


def test_a_drop_is_evidence_beyond_what_is_tolerated_alone() -> None:
    # Five points lost: one item in ten is, one in twenty is gained.
    differences = np.random.default_rng(2).permutation(np.repeat([-1.0, 1.0, 0.0], [400, 200, 3400]))
    assert drop_evidence(differences, 0.0) > 10
    assert drop_evidence(differences, 0.07) < 0


@pytest.mark.parametrize("drop", [0.0, TOLERANCE])
def test_evidence_is_worth_no_more_than_its_stake_where_nothing_fell(drop: float) -> None:
    chance = np.random.default_rng(1)
    evidence = []
    for _ in range(2000):
        # Right to wrong a little more often than wrong to right; the mean is exactly -drop.
        moved = chance.random(150)
        differences = np.where(moved < 0.1 + drop, -1.0, np.where(moved < 0.2 + drop, 1.0, 0.0))
        evidence.append(np.exp(drop_evidence(differences, drop)))
    # E ≤ 1; the mean of heavy tails is loose, the share above 1/α is not (Markov).
    assert np.mean(evidence) < 1.2
    assert np.mean(np.array(evidence) >= 20) <= 0.05


def test_few_training_runs_without_a_drop_have_any_false_alarm() -> None:
    # The hardest cases that are no regression: a score that stands still, and one that wobbles within the tolerance.
    chance = np.random.default_rng(2)
    still = sum(bool(alarms([0.6] * 40, seed)) for seed in range(60))
    wobbling = sum(bool(alarms(list(0.6 + TOLERANCE * (chance.random(40) - 0.5)), 1000 + seed)) for seed in range(60))
    assert still / 60 <= 0.05
    assert wobbling / 60 <= 0.05


def test_a_drop_at_the_tolerance_is_no_alarm_but_a_larger_one_is_found_soon() -> None:
    tolerated = [bool(alarms([0.6] * 10 + [0.6 - TOLERANCE] * 10, seed)) for seed in range(40)]
    assert np.mean(tolerated) <= 0.05
    noticed = [alarms([0.6] * 10 + [0.5] * 10, seed) for seed in range(40)]
    first = [found[0] if found else 99 for found in noticed]
    assert np.median(first) <= 11
    assert np.mean([each <= 14 for each in first]) >= 0.95
    # The checkpoints after an alarm are the new normal: it is not said again and again.
    assert np.mean([len(found) for found in noticed if found]) < 1.3


def test_a_slow_decline_is_found_though_no_step_is() -> None:
    means = [0.6] * 8 + list(0.6 - 0.008 * np.arange(1, 21))
    found = [alarms(means, seed, items=4000) for seed in range(10)]
    assert all(found)
    assert np.median([each[0] for each in found]) < 24


def test_only_items_that_all_compared_checkpoints_have_count() -> None:
    watch = RegressionWatch(TOLERANCE)
    before, after = np.ones(60), np.zeros(80)
    before[:10] = np.nan
    assert watch.observe(before, np.arange(60)) is None
    suspicion = watch.observe(after, np.arange(80))
    assert suspicion is not None
    assert (suspicion.item_count, suspicion.difference) == (50, -1.0)
    few = RegressionWatch(TOLERANCE)
    few.observe(np.ones(5), np.arange(5))
    assert few.observe(np.zeros(5), np.arange(5)) is None


def test_the_change_is_placed_where_it_was() -> None:
    watch = RegressionWatch(TOLERANCE)
    for scores in checkpoints([0.6] * 6 + [0.4], seed=3):
        suspicion = watch.observe(scores, np.arange(ITEMS))
    assert suspicion is not None
    assert suspicion.after_count == 1
    assert suspicion.difference == pytest.approx(-0.2, abs=0.05)
    before, after = watch.scores_around_change(suspicion.after_count)
    assert before.mean() - after.mean() == pytest.approx(0.2, abs=0.05)


def test_scores_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        RegressionWatch(TOLERANCE).observe(np.array([1.5]), np.arange(1))
