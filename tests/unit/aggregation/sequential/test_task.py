"""One task from first draw to last answer: exact at the end, the same however it is cut, failed items at worst."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.sequential.batches import Batch
from services.aggregation.sequential.questions import (
    Decision,
    DecisionState,
    Direction,
    GateRule,
    PrecisionRule,
    Question,
    RareRule,
    split_alpha,
)
from services.aggregation.sequential.task import SequentialTask

Values = NDArray[np.float64]


def binary(size: int, right: int) -> Values:
    return (np.arange(size) < right).astype(float)


def finish(task: SequentialTask, scores: Values, predictions: Values | None = None) -> tuple[Decision, ...]:
    while not task.is_exhausted:
        if task.needs_batch:
            task.begin_batch(predictions)
        task.observe(scores[task.next_draws(50).items])
    return task.decisions


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60),
    st.floats(0, 1),
    st.sampled_from(Direction),
    st.integers(0, 99),
)
def test_after_all_items_every_gate_is_decided_rightly_and_the_range_is_the_mean(
    scores: list[float], threshold: float, direction: Direction, seed: int
) -> None:
    values = np.array(scores)
    # Levels that no bet can reach: only what the scores leave possible decides.
    rules: list[Question] = [GateRule(threshold, direction, 1e-300, 1e-300), PrecisionRule(0.01, 1e-300)]
    task = SequentialTask(len(values), seed, rules)
    gate, precision = finish(task, values)
    mean, near = float(values.mean()), 1e-9 / len(values)
    is_right = mean >= threshold - near if direction is Direction.AT_LEAST else mean <= threshold + near
    assert gate.state is (DecisionState.PASSED if is_right else DecisionState.FAILED)
    assert gate.is_exact
    assert precision.state is DecisionState.REACHED
    summary = task.summary()
    assert (summary.estimate, summary.lower, summary.upper) == pytest.approx((mean, mean, mean))
    assert summary.planned_half_width == 0


@pytest.mark.parametrize("direction", list(Direction))
def test_a_whole_score_gate_at_the_mean_itself_is_decided_rightly(direction: Direction) -> None:
    for right in (0, 1, 3, 7, 10):
        task = SequentialTask(10, right, (GateRule(right / 10, direction),), whole_scores=True)
        [decision] = finish(task, binary(10, right))
        assert decision.state is DecisionState.PASSED


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.lists(st.integers(3, 90), min_size=1, max_size=8), st.booleans())
def test_the_same_scores_give_the_same_bits_however_they_are_cut(
    seed: int, cuts: list[int], has_failures: bool
) -> None:
    size = 250
    chance = np.random.default_rng(seed)
    scores = (chance.random(size) < 0.7).astype(float)
    best = np.where(chance.random(size) < 0.02, 1.0, scores) if has_failures else scores
    rules: list[Question] = [GateRule(0.6), GateRule(0.75, Direction.AT_MOST), PrecisionRule(0.05)]
    batches: list[Batch] = []
    task = SequentialTask(size, seed, rules, whole_scores=True)
    while task.drawn < 200:
        batches.append(task.begin_batch(chance.random(size), chance.random(size) + 0.1))
        while not task.needs_batch:
            items = task.next_draws(cuts[task.drawn % len(cuts)]).items
            task.observe(scores[items], best[items])
    again = SequentialTask(size, seed, rules, whole_scores=True)
    drawn = []
    for batch in batches:
        again.begin_batch(batch.predictions, batch.weights, variances=batch.variances, count=batch.count)
        drawn.append(again.next_draws(batch.count).items)
    items = np.concatenate(drawn)
    again.observe(scores[items], best[items])
    assert again.decisions == task.decisions
    assert again.summary() == task.summary()


@pytest.mark.parametrize(("direction", "threshold"), [(Direction.AT_LEAST, 0.6), (Direction.AT_MOST, 0.8)])
def test_each_answer_waits_for_the_level_that_was_asked_of_it(direction: Direction, threshold: float) -> None:
    scores, took = binary(3000, 2100), {}
    for strict in (0.05, 1e-6):
        task = SequentialTask(3000, 1, (GateRule(threshold, direction, strict, 0.5),), whole_scores=True)
        [decision] = finish(task, scores)
        assert decision.state is DecisionState.PASSED
        assert decision.log_evidence_pass >= -math.log(strict)
        took[strict] = decision.decided_after or 0
    assert took[0.05] < took[1e-6]


def test_batches_are_drawn_before_the_results_of_the_one_before_are_in() -> None:
    scores = binary(200, 120)
    task = SequentialTask(200, 3, (GateRule(0.3),))
    first = task.begin_batch()
    assert (first.first_draw_index, first.count) == (0, 32)
    items = task.next_draws(100).items
    assert len(items) == 32
    second = task.begin_batch(np.full(200, 0.6), np.linspace(1, 2, 200))
    assert second.first_draw_index == 32
    later = task.next_draws(100)
    assert later.first_draw_index == 32
    task.observe(scores[items])
    task.observe(scores[later.items])
    assert task.observed == task.drawn == 64
    weights = np.linspace(1, 2, 200).astype(np.float32).astype(float)
    left = np.setdiff1d(np.arange(200), items)
    assert later.probabilities[0] == pytest.approx(weights[later.items[0]] / weights[left].sum())


def test_failed_items_count_at_their_worst_both_ways() -> None:
    scores = binary(100, 70)
    failed = np.zeros(100, np.bool_)
    failed[:8] = True
    worst, best = np.where(failed, 0.0, scores), np.where(failed, 1.0, scores)
    rules: list[Question] = [
        GateRule(0.62, false_pass=1e-300, false_fail=1e-300),
        GateRule(0.63, false_pass=1e-300, false_fail=1e-300),
        GateRule(0.71, false_pass=1e-300, false_fail=1e-300),
        GateRule(0.69, Direction.AT_MOST, false_pass=1e-300, false_fail=1e-300),
    ]
    task = SequentialTask(100, 1, rules, whole_scores=True)
    while not task.is_exhausted:
        task.begin_batch()
        items = task.next_draws(100).items
        task.observe(worst[items], best[items])
    states = [each.state for each in task.decisions]
    # From 62 to 70 of 100 are right: between these, nobody can say.
    assert states == [DecisionState.PASSED, DecisionState.UNDECIDED, DecisionState.FAILED, DecisionState.UNDECIDED]
    assert (task.summary().lower, task.summary().upper) == pytest.approx((0.62, 0.70))


def test_a_clear_gate_is_decided_early_and_good_predictions_help() -> None:
    scores = binary(5000, 3500)
    good = np.where(scores > 0, 0.95, 0.05)
    took = {}
    for name, predictions in (("none", None), ("good", good)):
        task = SequentialTask(5000, 1, (GateRule(0.6), PrecisionRule(0.02)), whole_scores=True)
        gate, precision = finish(task, scores, predictions)
        assert gate.state is DecisionState.PASSED
        assert not gate.is_exact
        took[name] = (gate.decided_after or 0, precision.decided_after or 0)
    assert took["good"][0] < took["none"][0] < 1000
    assert took["good"][1] < took["none"][1] / 2


def test_what_is_expected_to_remain_is_about_right() -> None:
    scores = binary(5000, 3500)[np.random.default_rng(1).permutation(5000)]
    for rule in (GateRule(0.6), PrecisionRule(0.02)):
        task = SequentialTask(5000, 2, (rule,), whole_scores=True)
        task.begin_batch(count=5000)
        task.observe(scores[task.next_draws(120).items])
        expected = 120 + task.expected_remaining()
        task.observe(scores[task.next_draws(5000).items])
        [decision] = task.decisions
        assert decision.decided_after is not None
        assert decision.decided_after / 2.5 < expected < decision.decided_after * 2.5
        assert task.expected_remaining() == 0


@pytest.mark.parametrize(
    ("scores", "message"),
    [([0.5], "0 or 1"), ([1.5], "from 0 to 1"), ([math.nan], "from 0 to 1"), ([1.0] * 40, "not handed out")],
)
def test_impossible_scores_are_refused(scores: list[float], message: str) -> None:
    task = SequentialTask(100, 0, (GateRule(0.5),), whole_scores=True)
    task.begin_batch()
    task.next_draws(32)
    with pytest.raises(ValueError, match=message):
        task.observe(np.array(scores))


def test_impossible_batches_are_refused() -> None:
    task = SequentialTask(4, 0, (RareRule(0.5),))
    with pytest.raises(ValueError, match="uniform"):
        task.begin_batch(weights=np.ones(4))
    with pytest.raises(ValueError, match="predictions"):
        task.begin_batch(np.array([0.5, 0.5, 0.5, 1.5]))
    with pytest.raises(ValueError, match="one number an item"):
        task.begin_batch(np.ones(3))
    task.begin_batch()
    with pytest.raises(ValueError, match="not handed out"):
        task.begin_batch()


def test_alpha_is_split_by_weight() -> None:
    assert split_alpha(0.05, [1, 1, 2]) == pytest.approx([0.0125, 0.0125, 0.025])
    with pytest.raises(ValueError, match="above 0"):
        split_alpha(0.05, [1, 0])
