"""Differences of a part of the items that were drawn with unequal probabilities, judged as if all were in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.comparison.draw_orders import DrawOrder, order_of, uniform_order
from services.aggregation.comparison.margins import MarginRule, Verdict, decide
from services.aggregation.drawings.records import Batch

Values = NDArray[np.float64]
SIZE = 400
RULE = MarginRule(margin=0.02, false_pass=0.05, false_fail=0.05, interval_level=0.95)


def drawn(weights: Values, counts: list[int], seed: int) -> list[Batch]:
    """Draw batches one item after another, with probability proportional to its weight among those left."""
    chance, left, batches, first = np.random.default_rng(seed), np.ones(len(weights), dtype=bool), [], 0
    for index, count in enumerate(counts):
        # Every batch has weights of its own, as after a new fit.
        own = np.asarray(np.roll(weights, index), dtype=np.float32)
        positions = []
        for _ in range(min(count, int(left.sum()))):
            among = np.flatnonzero(left)
            shares = own[among].astype(np.float64)
            positions.append(int(chance.choice(among, p=shares / shares.sum())))
            left[positions[-1]] = False
        batches.append(Batch(index, first, np.array(positions, dtype=np.int64), None, own, None))
        first += len(positions)
    return batches


def positions_of(batches: list[Batch]) -> NDArray[np.int64]:
    return np.concatenate([each.positions for each in batches])


@given(
    st.lists(st.floats(0.05, 20.0), min_size=2, max_size=12),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 50),
)
def test_inflations_are_those_of_the_probabilities(weights: list[float], counts: list[int], seed: int) -> None:
    batches = drawn(np.array(weights), counts, seed)
    order = order_of(len(weights), batches)
    left, index = set(range(len(weights))), 0
    for batch in batches:
        assert batch.weights is not None
        for position in batch.positions.tolist():
            total = sum(float(batch.weights[each]) for each in left)
            ratios = {each: total / float(batch.weights[each]) / len(left) for each in left}
            assert order.inflations[index] == pytest.approx(ratios[position], rel=1e-5)
            assert order.largest[index] >= max(ratios.values()) * (1 - 1e-5)
            left.remove(position)
            index += 1
    assert index == len(order.inflations)
    assert not order.is_uniform


def test_uniform_batches_make_a_uniform_order() -> None:
    batches = [
        Batch(0, 0, np.array([3, 1]), np.zeros(5, dtype=np.float32), None, None),
        Batch(1, 2, np.array([0]), None, None, None),
    ]
    order, expected = order_of(5, batches), uniform_order(5, 3)
    assert order.is_uniform
    assert order.size == 5
    assert np.array_equal(order.inflations, expected.inflations)
    assert np.array_equal(order.largest, expected.largest)
    assert order_of(5, []).inflations.shape == (0,)


def replayed(differences: Values, weights: Values, rule: MarginRule, replays: int = 80) -> tuple[float, float, float]:
    """Draw half of the items again and again; share of passes, and of misses with and without the probabilities."""
    passed = missed = missed_plainly = 0
    for seed in range(replays):
        batches = drawn(weights, [32, 64, 96], seed)
        known = differences[positions_of(batches)]
        order = order_of(SIZE, batches)
        outcome = decide(known, known, order, rule)
        plainly = decide(known, known, uniform_order(SIZE, len(known)), rule)
        assert outcome.interval is not None
        assert plainly.interval is not None
        passed += outcome.verdict is Verdict.NOT_INFERIOR
        missed += not outcome.interval.lower <= differences.mean() <= outcome.interval.upper
        missed_plainly += not plainly.interval.lower <= differences.mean() <= plainly.interval.upper
    return passed / replays, missed / replays, missed_plainly / replays


def test_items_drawn_more_readily_do_not_speak_louder() -> None:
    # The variant is worse by 15 points, all of it on items that are rarely drawn: seldom enough to look like 10.
    differences = np.zeros(SIZE)
    differences[:60] = -1.0
    weights = np.ones(SIZE)
    weights[:60] = 0.25
    rule = MarginRule(margin=0.1, false_pass=0.05, false_fail=0.05, interval_level=0.95)
    passed, missed, missed_plainly = replayed(differences, weights, rule)
    assert passed <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5
    assert missed <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5
    # Taken for uniform draws, the same items would deceive: the test would see it.
    assert missed_plainly > 0.5


def test_a_whole_draw_is_exact_whatever_its_weights() -> None:
    chance = np.random.default_rng(9)
    differences = chance.choice([-1.0, 0.0, 1.0], 60)
    batches = drawn(chance.random(60) + 0.1, [30, 30], 1)
    known = differences[positions_of(batches)]
    outcome = decide(known, known, order_of(60, batches), MarginRule(0.02, 1e-12, 1e-12, 0.999))
    assert outcome.interval is not None
    assert outcome.interval.lower == pytest.approx(differences.mean(), abs=1e-9)
    assert outcome.interval.upper == pytest.approx(differences.mean(), abs=1e-9)
    assert outcome.verdict is (Verdict.NOT_INFERIOR if differences.mean() >= -0.02 else Verdict.INFERIOR)


def test_an_order_longer_than_what_is_known_is_fine() -> None:
    order = DrawOrder(100, np.ones(50), np.ones(50), is_uniform=True)
    assert decide(np.zeros(20), np.zeros(20), order, RULE).prefix_count == 20
