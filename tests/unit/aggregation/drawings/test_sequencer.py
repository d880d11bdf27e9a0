"""A drawing at work: what is drawn, in which order results count, and that timing changes nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.drawings.errors import DrawingDamagedError
from services.aggregation.drawings.records import Drawing
from services.aggregation.drawings.scores import SampleOutcome
from services.aggregation.drawings.sequencer import Sequencer
from services.aggregation.sequential.questions import DecisionState, Direction, GateRule, PrecisionRule, RareRule
from tests.unit.aggregation.drawings.conftest import Player, outcomes_of, past_of

DrawingFactory = Callable[..., Drawing]
SIZE = 300
RANDOM = np.random.default_rng(3)
EASE = RANDOM.uniform(size=SIZE)
PAST = (RANDOM.uniform(size=(8, SIZE)) < EASE).astype(np.float64)
SCORES: NDArray[np.float64] = np.where(RANDOM.uniform(size=SIZE) < 0.1, 1 - PAST[-1], PAST[-1])
QUESTIONS = (GateRule(0.3), PrecisionRule(0.05))


def test_draws_are_every_item_once_with_the_probabilities_of_a_uniform_draw(drawing: DrawingFactory) -> None:
    made = drawing(50)
    sequencer = Sequencer(made, None)
    sequencer.next_batch()
    drawn = sequencer.draws(0, 100)
    assert sorted(each.position for each in drawn.draws) == list(range(50))
    assert [each.draw_index for each in drawn.draws] == list(range(50))
    assert all(each.item_id == made.item_ids[each.position] for each in drawn.draws)
    assert [each.probability for each in drawn.draws] == pytest.approx([1 / (50 - index) for index in range(50)])
    assert drawn.is_exhausted
    assert drawn.awaited_count is None


def test_the_same_index_gives_the_same_draws_however_many_are_asked_for(drawing: DrawingFactory) -> None:
    sequencer = Player(drawing(SIZE), past_of(PAST), SCORES, window=64, seed=1).play()
    every = [sequencer.draws(index, 1).draws[0] for index in range(SIZE)]
    assert sequencer.draws(10, 7).draws == tuple(every[10:17])
    # The first batch has 32 draws, and an answer ends with it.
    assert sequencer.draws(30, 7).draws == tuple(every[30:32])


def test_uniform_orders_of_a_seed_are_alike_for_all_models_and_steered_ones_are_not(drawing: DrawingFactory) -> None:
    def first(**fields: object) -> list[int]:
        sequencer = Sequencer(drawing(100, **fields), None)
        sequencer.next_batch()
        return [each.position for each in sequencer.draws(0, 10).draws]

    uniform = first(uses_history=False)
    assert uniform == first(uses_history=False, model_digest="other", run="runs/other")
    assert uniform != first(uses_history=False, seed=8)
    assert first() == first(run="runs/other")
    assert first() != first(model_digest="other")


def test_results_count_in_the_order_of_draws(drawing: DrawingFactory) -> None:
    sequencer = Sequencer(drawing(20, questions=(GateRule(0.5),)), None)
    sequencer.next_batch()
    items = [each.item_id for each in sequencer.draws(0, 6).draws]
    sequencer.take(outcomes_of(items[2:5], [1, 1, 1]))
    late = sequencer.decision()
    assert (late.completed_count, late.evaluated_count, late.saved_count, late.value) == (0, 3, 17, None)
    assert sequencer.missing_items() == [items[0], items[1], items[5]]
    sequencer.take(outcomes_of(items[:1], [0]))
    assert sequencer.completed_count == 1
    sequencer.take(outcomes_of(items[1:2], [0]))
    assert sequencer.completed_count == 5
    assert sequencer.decision().evaluated_count == 5


def test_a_batch_waits_for_the_results_that_it_is_fitted_on_and_for_no_more(drawing: DrawingFactory) -> None:
    sequencer = Sequencer(drawing(SIZE), past_of(PAST))
    items: list[str] = []
    for _ in range(2):
        sequencer.next_batch()
        items += [each.item_id for each in sequencer.draws(len(items), 100).draws]
    waiting = sequencer.draws(64, 10)
    assert (len(items), waiting.draws, waiting.awaited_count, waiting.is_exhausted) == (64, (), 32, False)
    sequencer.take(outcomes_of(items[1:40], [1] * 39))
    assert not sequencer.can_draw
    sequencer.take(outcomes_of(items[:1], [1]))
    assert sequencer.can_draw


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.integers(1, 120), steps=st.integers(0, 200))
def test_neither_pace_nor_a_restart_changes_a_bit(drawing: DrawingFactory, seed: int, window: int, steps: int) -> None:
    made = drawing(SIZE, questions=QUESTIONS)
    reference = Player(made, past_of(PAST), SCORES, window=32, seed=0)
    expected = reference.play().decision()
    player = Player(made, past_of(PAST), SCORES, window=window, seed=seed)
    for _ in range(steps):
        player.step()
    rebuilt = player.rebuilt()
    assert rebuilt.decision() == player.sequencer.decision()
    player.sequencer = rebuilt
    assert player.play().decision() == expected
    assert [each.digest for each in player.batches] == [each.digest for each in reference.batches]


def test_a_batch_that_does_not_follow_from_the_seed_is_refused(drawing: DrawingFactory) -> None:
    made = drawing(SIZE)
    player = Player(made, past_of(PAST), SCORES, window=32, seed=0)
    player.step()
    stored = player.batches[0]
    with pytest.raises(DrawingDamagedError):
        Sequencer(replace(made, order_seed=made.order_seed + 1), player.past).replay(stored)


def test_history_needs_fewer_items_for_the_same_answer(drawing: DrawingFactory) -> None:
    random = np.random.default_rng(11)
    size = 4000
    past = (random.uniform(size=(6, size)) < random.beta(0.3, 0.3, size)).astype(np.float64)
    scores = np.where(random.uniform(size=size) < 0.02, 1 - past[-1], past[-1])
    made = drawing(size, questions=(PrecisionRule(0.02),), has_binary_scores=True)
    alone = Player(made, None, scores, window=32, seed=0).play(until_decided=True).decision()
    helped = Player(made, past_of(past), scores, window=32, seed=0).play(until_decided=True).decision()
    assert alone.questions[0][1].state is helped.questions[0][1].state is DecisionState.REACHED
    assert helped.completed_count < alone.completed_count / 2
    for decision in (alone, helped):
        assert decision.lower <= scores.mean() <= decision.upper


def test_a_decision_says_whether_items_were_drawn_with_weights(drawing: DrawingFactory) -> None:
    uniform = Player(drawing(SIZE), None, SCORES, window=64, seed=1).play()
    steered = Player(drawing(SIZE), past_of(PAST), SCORES, window=64, seed=1)
    assert not steered.sequencer.decision().is_weighted
    assert steered.play().decision().is_weighted
    assert steered.rebuilt().decision().is_weighted
    assert not uniform.decision().is_weighted


def test_the_mean_of_all_items_is_exact_once_all_are_in(drawing: DrawingFactory) -> None:
    gate = GateRule(float(SCORES.mean()) + 0.5 / SIZE, Direction.AT_MOST)
    decision = Player(drawing(SIZE, questions=(gate,)), past_of(PAST), SCORES, window=9, seed=2).play().decision()
    assert decision.is_exact
    assert (decision.value, decision.saved_count, decision.unknown_count) == (SCORES.mean(), 0, 0)
    assert decision.lower == decision.upper == pytest.approx(SCORES.mean())
    assert decision.questions[0][1].state is DecisionState.PASSED


def test_items_without_a_score_count_against_each_answer(drawing: DrawingFactory) -> None:
    """60 items right, 40 without a score: the mean is somewhere from 0.6 to 1."""
    questions = (GateRule(0.55), GateRule(0.7), GateRule(0.7, Direction.AT_MOST), RareRule(0.7))
    sequencer = Sequencer(drawing(100, questions=questions), None)
    sequencer.next_batch()
    items = [each.item_id for each in sequencer.draws(0, 100).draws]
    sequencer.take(
        [
            SampleOutcome(item, 0, {"acc": 1.0} if index % 5 < 3 else [{}, {"acc": 1.5}][index % 2])
            for index, item in enumerate(items)
        ]
    )
    decision = sequencer.decision()
    states = [answer.state for _, answer in decision.questions]
    assert states == [DecisionState.PASSED] + [DecisionState.UNDECIDED] * 3
    assert (decision.unknown_count, decision.is_decided) == (40, False)
    assert decision.lower == pytest.approx(0.6)
    assert decision.upper == pytest.approx(1.0)


def test_a_failure_counts_as_its_task_says(drawing: DrawingFactory) -> None:
    sequencer = Sequencer(drawing(10, questions=(GateRule(0.5),)), None)
    sequencer.next_batch()
    items = [each.item_id for each in sequencer.draws(0, 10).draws]
    sequencer.take(outcomes_of(items, [0.0] * 4 + [1.0] * 6))
    assert sequencer.decision().unknown_count == 0
    assert sequencer.decision().value == 0.6


def test_an_item_counts_once_all_its_samples_are_in(drawing: DrawingFactory) -> None:
    sequencer = Sequencer(drawing(2, samples=3), None)
    sequencer.next_batch()
    first, second = (each.item_id for each in sequencer.draws(0, 2).draws)
    sequencer.take([SampleOutcome(first, 2, {"acc": 1.0}), SampleOutcome(first, 0, {"acc": 1.0})])
    sequencer.take([SampleOutcome(first, 0, {"acc": 0.0}), SampleOutcome(first, 3, {"acc": 0.0})])
    assert sequencer.completed_count == 0
    sequencer.take([SampleOutcome(first, 1, {"acc": 0.0})])
    assert sequencer.completed_count == 1
    sequencer.take([SampleOutcome(second, number, {} if number else {"acc": 1.0}) for number in range(3)])
    decision = sequencer.decision()
    assert decision.lower == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert decision.upper == pytest.approx((2 / 3 + 1) / 2)
    assert decision.unknown_count == 1


def test_a_score_in_between_is_not_known_where_scores_are_binary(drawing: DrawingFactory) -> None:
    sequencer = Sequencer(drawing(1, has_binary_scores=True), None)
    sequencer.next_batch()
    sequencer.take(outcomes_of([sequencer.draws(0, 1).draws[0].item_id], [0.5]))
    assert sequencer.decision().unknown_count == 1
