"""What a draw says: right on average whatever is predicted, within its bounds, exact at the end."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.sequential.betting import log_growth
from services.aggregation.sequential.evidence import Evidence, Increments, terms_of

Values = NDArray[np.float64]


def increments_of(order: NDArray[np.int64], scores: Values, predictions: Values, weights: Values) -> Increments:
    """The increments of draws in this order, all with the same predictions and weights."""
    rest = np.ones(len(scores), np.bool_)
    rest[order] = False
    terms = terms_of(order, rest, predictions, weights, predictions * (1 - predictions))
    return Evidence(len(scores)).observe(scores[order], terms)


@st.composite
def lists(draw: st.DrawFn, most: int = 12) -> tuple[Values, Values, Values]:
    size = draw(st.integers(1, most))
    share = st.floats(0, 1)
    scores = draw(st.lists(share, min_size=size, max_size=size))
    predictions = draw(st.lists(share, min_size=size, max_size=size))
    weights = draw(st.lists(st.floats(0.05, 20), min_size=size, max_size=size))
    return np.array(scores), np.array(predictions), np.array(weights)


@given(lists(), st.data())
def test_the_expected_value_is_the_mean_whatever_predictions_and_weights_are(
    drawn: tuple[Values, Values, Values], data: st.DataObject
) -> None:
    scores, predictions, weights = drawn
    size = len(scores)
    seen = np.array(data.draw(st.permutations(range(size))), np.int64)[: data.draw(st.integers(0, size - 1))]
    left = np.setdiff1d(np.arange(size), seen)
    chances = weights[left] / weights[left].sum()
    values = []
    for item in left:
        one = increments_of(np.append(seen, item), scores, predictions, weights)
        assert one.low[-1] - 1e-9 <= one.values[-1] <= one.high[-1] + 1e-9
        values.append(one.values[-1])
    assert np.dot(chances, values) == pytest.approx(scores.mean(), abs=1e-9)


@settings(max_examples=25)
@given(lists(most=4), st.integers(0, 2**32))
def test_all_orders_with_predictions_that_follow_from_the_past_weigh_to_the_mean(
    drawn: tuple[Values, Values, Values], seed: int
) -> None:
    scores, _, _ = drawn
    size = len(scores)

    def adversary(past: tuple[int, ...]) -> tuple[Values, Values]:
        # Any function of the items drawn and their scores.
        told = [seed, *past, *(int(1000 * scores[each]) for each in past)]
        chance = np.random.default_rng(told)
        return chance.random(size), chance.random(size) + 0.01

    totals = np.zeros(size)
    for order in itertools.permutations(range(size)):
        probability = 1.0
        for at in range(size):
            predictions, weights = adversary(order[:at])
            found = increments_of(np.array(order[: at + 1]), scores, predictions, weights)
            left = [each for each in range(size) if each not in order[:at]]
            probability *= weights[order[at]] / weights[left].sum()
            # The probability of the order up to here; each prefix is met once for every order of the rest.
            totals[at] += probability * found.values[-1] / _orders(size - at - 1)
    assert totals == pytest.approx(np.full(size, scores.mean()), abs=1e-9)


def _orders(count: int) -> int:
    return 1 if count < 2 else count * _orders(count - 1)


def test_the_uniform_case_is_that_of_the_literature() -> None:
    """Against the formula of Waudby-Smith & Ramdas (2020): m_t = (N m − S) / (N − t + 1), as in confseq."""
    scores = (np.random.default_rng(3).random(40) < 0.6).astype(float)
    order = np.random.default_rng(4).permutation(40)
    found = increments_of(order, scores, np.full(40, 0.3), np.ones(40))
    claim, before = 0.45, 0.0
    for at, item in enumerate(order):
        left = 40 - at
        conditional = (40 * claim - before) / left
        assert found.values[at] - claim == pytest.approx((scores[item] - conditional) * left / 40)
        assert found.low[at] == pytest.approx(before / 40)
        assert found.high[at] == pytest.approx((before + left) / 40)
        before += scores[item]


@pytest.mark.parametrize(
    ("claim", "above", "below"),
    [
        (
            0.55,
            {1: 1.2142857142857142, 5: 1.688998626446012, 12: 3.1253793228144877, 28: 57.004224241775134},
            {1: 0.7857142857142858, 5: 0.44306728292661524, 12: 0.1298545733695809, 28: 6.173787766220159e-05},
        ),
        (
            0.9,
            {1: 1.0476190476190477, 5: 0.6620550575216056, 12: 0.17076597528781998},
            {1: 0.9523809523809524, 5: 1.1996278011148573, 12: 2.387038653175751},
        ),
    ],
)
def test_uniform_bets_win_what_confseq_says(claim: float, above: dict[int, float], below: dict[int, float]) -> None:
    """Against betting_mart of confseq 0.0.11 with N = 40, the same bets and trunc_scale = 0.95.

    Its bets are on the score of a draw, ours on the mean of the list: |R| / N times as much.
    """
    scores = np.array([float(each) for each in "1101110110111100110111101011111011011110"])
    found = increments_of(np.arange(40), scores, np.full(40, 0.3), np.ones(40))
    variance = ((40 - np.arange(40)) / 40) ** 2 * 0.2
    for won, room, expected in (
        (found.values - claim, claim - found.low, above),
        (claim - found.values, found.high - claim, below),
    ):
        count = max(expected)
        growth = log_growth(won[:count], room[:count], variance[:count], np.array([0.1]))
        capital = np.exp(np.cumsum(growth[:, 0]))
        assert {at: float(capital[at - 1]) for at in expected} == pytest.approx(expected)


def test_the_last_value_is_exact() -> None:
    scores = np.array([1.0, 0.0, 0.5, 1.0])
    found = increments_of(np.arange(4), scores, np.full(4, 0.3), np.array([1.0, 2.0, 1.0, 5.0]))
    assert found.values[-1] == pytest.approx(scores.mean())
    assert found.sums[-1] == pytest.approx(2.5)
    assert found.counts.tolist() == [1, 2, 3, 4]


def test_variances_come_to_what_they_are() -> None:
    chance = np.random.default_rng(5)
    truth = chance.random(20_000)
    scores = (chance.random(20_000) < truth).astype(float)
    # Told that all is certain, it finds out that it is not.
    confident = np.where(truth > 0.5, 0.98, 0.02)
    order = chance.permutation(20_000)
    found = increments_of(order, scores, confident, np.ones(20_000))
    late = slice(4_000, 8_000)
    share = 1 - found.counts[late] / 20_000
    assert found.variance[late].mean() == pytest.approx(
        float((share**2 * ((scores - confident) ** 2).mean()).mean()), rel=0.1
    )


def test_a_million_items_stay_exact() -> None:
    scores = (np.arange(1_000_000) % 3 == 0).astype(float)
    order = np.random.default_rng(0).permutation(len(scores))
    found = increments_of(order, scores, np.full(len(scores), 0.1), np.ones(len(scores)))
    assert found.values[-1] == pytest.approx(scores.mean(), abs=1e-12)
    assert found.values.mean() == pytest.approx(scores.mean(), abs=0.002)
    assert (found.variance > 0).all()
