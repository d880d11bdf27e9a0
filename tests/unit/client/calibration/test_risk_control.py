import math
import random
from functools import partial

import pytest
from evalfleet.calibration.risk_control import (
    HANDS_ALL_ON,
    Judged,
    Thresholds,
    binomial_p_value,
    choose_thresholds,
    exchangeable_p_value,
    measure,
    threshold_path,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import bdtr
from scipy.stats import hypergeom

EPSILON, DELTA = 0.05, 0.1
SIMULATIONS = 300
# A promise that is kept exactly in 1 - DELTA of all cases is broken more often than this once in a thousand tests.
MOST_BROKEN = DELTA + 3.1 * math.sqrt(DELTA * (1 - DELTA) / SIMULATIONS)

probabilities = st.one_of(st.none(), st.just(math.nan), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
judged = st.builds(Judged, probabilities, st.sampled_from([True, False, None]))


def share_unsafe(probability: float) -> float:
    """What the last guard says of texts of one probability: far from calibrated, never sure."""
    return 0.02 + 0.95 * probability**3


def draw(source: random.Random, count: int, *, liar: bool = False) -> list[Judged]:
    drawn = [source.random() ** 2 for _ in range(count)]
    return [Judged(each, (source.random() < share_unsafe(each)) is not liar) for each in drawn]


def true_disagreement(thresholds: Thresholds, steps: int = 2000) -> float:
    """Integrate over the distribution that ``draw`` draws from."""
    total = 0.0
    for step in range(steps):
        probability = ((step + 0.5) / steps) ** 2
        decision = thresholds.decide(probability)
        if decision is not None:
            total += 1 - share_unsafe(probability) if decision else share_unsafe(probability)
    return total / steps


@given(st.integers(1, 400), st.integers(0, 400), st.floats(0.001, 0.5))
def test_the_binomial_p_value_is_the_binomial_tail(rows: int, mistakes: int, epsilon: float) -> None:
    mistakes = min(mistakes, rows)
    assert binomial_p_value(mistakes, rows, epsilon) == pytest.approx(float(bdtr(mistakes, rows, epsilon)), abs=1e-9)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 500), st.floats(0.001, 0.5))
def test_the_exchangeable_p_value_is_a_hypergeometric_tail(
    rows: int, mistakes: int, promised: int, epsilon: float
) -> None:
    mistakes = min(mistakes, rows - 1)
    whole = mistakes + math.floor(epsilon * promised + 1e-9) + 1
    expected = hypergeom.cdf(mistakes, rows + promised, whole, rows)
    assert exchangeable_p_value(mistakes, rows, epsilon, promised) == pytest.approx(float(expected), abs=1e-7)


def test_a_promise_for_ever_more_rows_becomes_one_for_the_long_run() -> None:
    far = exchangeable_p_value(13, 1000, 0.02, 10_000_000)
    assert far == pytest.approx(binomial_p_value(13, 1000, 0.02), rel=0.01)


def test_two_percent_at_ninety_percent_confidence_take_114_rows_without_a_mistake() -> None:
    assert binomial_p_value(0, 113, 0.02) > 0.1 > binomial_p_value(0, 114, 0.02)


@given(st.lists(judged, max_size=60))
def test_the_path_only_grows_bolder_and_never_crosses(rows: list[Judged]) -> None:
    before = HANDS_ALL_ON
    for pair in threshold_path(rows):
        assert pair != before
        assert before.low is None or (pair.low is not None and pair.low >= before.low)
        assert before.high is None or (pair.high is not None and pair.high <= before.high)
        assert pair.low is None or pair.low < 1
        assert pair.high is None or pair.high > 0
        assert pair.low is None or pair.high is None or pair.low < pair.high
        before = pair


@given(st.lists(judged, max_size=60), st.lists(judged, max_size=60))
def test_what_is_chosen_is_what_it_does_on_the_rows(ordering: list[Judged], promise: list[Judged]) -> None:
    choice = choose_thresholds(ordering, promise, delta=DELTA, p_value=partial(binomial_p_value, epsilon=0.3))
    assert choice.outcome == measure(choice.thresholds, promise)
    assert choice.p_value <= DELTA


def test_a_guard_without_a_probability_decides_nothing() -> None:
    bold = Thresholds(0.9, 0.91)
    assert bold.decide(None) is None
    assert bold.decide(math.nan) is None
    assert bold.decide(0.905) is None
    assert (bold.decide(0.9), bold.decide(0.91)) == (False, True)
    assert HANDS_ALL_ON.decide(0.0) is None


def test_deciding_what_the_last_guard_left_open_is_a_mistake() -> None:
    rows = [Judged(0.1, None), Judged(0.9, None), Judged(0.5, None)]
    assert measure(Thresholds(0.2, 0.8), rows).mistakes == 2


def test_the_boldest_valid_pair_is_chosen() -> None:
    # Deciding below 0.5 is never wrong, above it half the time.
    source = random.Random(5)
    rows = [Judged(p, p > 0.5 and source.random() < 0.5) for p in (source.random() for _ in range(4000))]
    choice = choose_thresholds(rows[:1000], rows[1000:], delta=DELTA, p_value=partial(binomial_p_value, epsilon=0.02))
    assert 0.45 < choice.outcome.escalated_share < 0.5
    assert choice.thresholds.low is not None
    assert choice.thresholds.low > 0.48


def test_too_few_rows_promise_nothing() -> None:
    rows = [Judged(0.1, False)] * 100
    choice = choose_thresholds(rows, rows, delta=DELTA, p_value=partial(binomial_p_value, epsilon=0.02))
    assert choice.thresholds == HANDS_ALL_ON
    assert (choice.outcome.escalated_share, choice.p_value) == (1.0, 0.0)


@pytest.mark.parametrize("liar", [False, True], ids=["ordered well", "ordered by a liar"])
def test_the_promise_for_the_long_run_holds(liar: bool) -> None:
    source = random.Random(20)
    test = partial(binomial_p_value, epsilon=EPSILON)
    risks, decided = [], []
    for _ in range(SIMULATIONS):
        choice = choose_thresholds(draw(source, 150, liar=liar), draw(source, 300), delta=DELTA, p_value=test)
        risks.append(true_disagreement(choice.thresholds, steps=300))
        decided.append(1 - choice.outcome.escalated_share)
    assert sum(risk > EPSILON for risk in risks) / SIMULATIONS <= MOST_BROKEN
    if not liar:
        # It is worth something too: it is no promise that is kept by never deciding.
        assert sum(decided) / SIMULATIONS > 0.4
        assert sum(risks) / SIMULATIONS > 0.4 * EPSILON


def test_the_promise_for_the_next_rows_holds() -> None:
    source = random.Random(21)
    next_rows = 200
    test = partial(exchangeable_p_value, epsilon=EPSILON, promised_rows=next_rows)
    broken = 0
    for _ in range(SIMULATIONS):
        choice = choose_thresholds(draw(source, 150), draw(source, 300), delta=DELTA, p_value=test)
        broken += measure(choice.thresholds, draw(source, next_rows)).disagreement > EPSILON
    assert broken / SIMULATIONS <= MOST_BROKEN
