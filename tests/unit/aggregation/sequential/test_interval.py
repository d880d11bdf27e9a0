"""Ranges: as narrow as theory promises, and a planned look's range as statistics textbooks have it."""

import math

import numpy as np
import pytest

from services.aggregation.sequential.questions import PrecisionRule
from services.aggregation.sequential.task import SequentialTask


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_range_is_as_narrow_as_wanted_well_before_steady_bets_would_have_it(share: float) -> None:
    size, half_width = 5000, 0.04
    took = []
    for seed in range(4):
        scores = (np.arange(size) < share * size).astype(float)
        task = SequentialTask(size, seed, (PrecisionRule(half_width),), whole_scores=True)
        while not task.is_decided:
            task.begin_batch()
            task.observe(scores[task.next_draws(size).items])
        took.append(task.decisions[0].decided_after or size)

    def draws(factor: float) -> float:
        needed = factor * share * (1 - share) / half_width**2
        return needed / (1 + needed / size)

    # Bets of one size need 2 ln(2/α); a single planned look, which no valid range can beat, z².
    assert draws(1.96**2) < np.median(took) < 0.85 * draws(2 * math.log(2 / 0.05))


def test_the_planned_range_is_the_textbook_one_with_the_correction_for_finite_lists() -> None:
    size, seen = 4000, 1000
    chance = np.random.default_rng(1)
    scores = (chance.random(size) < 0.7).astype(float)
    task = SequentialTask(size, 5, whole_scores=True)
    task.begin_batch(count=size)
    drawn = scores[task.next_draws(seen).items]
    task.observe(drawn)
    summary = task.summary()
    textbook = 1.96 * math.sqrt(drawn.var() / seen * (1 - seen / size))
    assert summary.planned_half_width == pytest.approx(textbook, rel=0.06)
    assert summary.estimate == pytest.approx(drawn.mean(), abs=0.2 * textbook)
    assert summary.lower < summary.estimate < summary.upper


def test_ranges_only_ever_narrow() -> None:
    scores = (np.random.default_rng(1).random(500) < 0.3).astype(float)
    task = SequentialTask(500, 5, whole_scores=True)
    lower, upper = 0.0, 1.0
    while not task.is_exhausted:
        if task.needs_batch:
            task.begin_batch()
        task.observe(scores[task.next_draws(9).items])
        now = task.summary()
        assert lower <= now.lower <= now.upper <= upper
        lower, upper = now.lower, now.upper
    assert lower == pytest.approx(scores.mean())


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_a_range_that_the_scores_contradict_gives_way_to_what_they_leave_possible(first: float) -> None:
    size, before = 500, 300
    task = SequentialTask(size, 5, (PrecisionRule(0.001),), whole_scores=True)
    task.begin_batch(count=size)
    # No draw by chance: the range must miss.
    scores = np.concatenate([np.full(before, first), np.full(size - before, 1 - first)])
    mean = scores.mean()
    for start in range(0, size, 20):
        task.next_draws(20)
        task.observe(scores[start : start + 20])
        now = task.summary()
        assert now.lower <= now.upper
    assert [now.lower, now.upper, now.estimate] == pytest.approx([mean] * 3)
    lower, upper = task.claimed_range()
    assert not lower <= mean <= upper
