"""Non-inferiority: right as often as promised, however early it stops, and exact with all items in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.comparison.draw_orders import uniform_order
from services.aggregation.comparison.margins import MarginOutcome, MarginRule, Verdict
from services.aggregation.comparison.margins import decide as decide_in_order

Values = NDArray[np.float64]

RULE = MarginRule(margin=0.02, false_pass=0.05, false_fail=0.05, interval_level=0.95)
SIZE = 1000


def decide(lowest: Values, highest: Values, size: int, rule: MarginRule) -> MarginOutcome:
    """Decide from uniform draws."""
    return decide_in_order(lowest, highest, uniform_order(size, len(lowest)), rule)


def differences(lost: int, gained: int, size: int = SIZE) -> Values:
    """Every item's difference: ``lost`` are right in the base alone, ``gained`` in the variant alone."""
    return np.concatenate([-np.ones(lost), np.ones(gained), np.zeros(size - lost - gained)])


def shares(lost: int, gained: int, replays: int = 150) -> tuple[float, float, float]:
    """Replay random draw orders: share of NOT_INFERIOR, of INFERIOR, of intervals that miss; never with all items."""
    items, chance = differences(lost, gained), np.random.default_rng(5)
    passed = failed = missed = 0
    for _ in range(replays):
        drawn = chance.permutation(items)[: SIZE - 1]
        outcome = decide(drawn, drawn, SIZE, RULE)
        passed += outcome.verdict is Verdict.NOT_INFERIOR
        failed += outcome.verdict is Verdict.INFERIOR
        assert outcome.interval is not None
        missed += not outcome.interval.lower <= items.mean() <= outcome.interval.upper
    return passed / replays, failed / replays, missed / replays


def test_a_variant_just_below_the_margin_rarely_passes() -> None:
    # One item of a thousand beyond the margin; one in ten differs.
    passed, _, missed = shares(lost=61, gained=40)
    assert passed <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5
    assert missed <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def test_a_variant_exactly_at_the_margin_rarely_fails() -> None:
    _, failed, _ = shares(lost=60, gained=40)
    assert failed <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5


def test_an_equal_variant_is_cleared_early() -> None:
    # A quantised model: 2 % of the answers change, as many for the better as for the worse.
    items, chance = differences(200, 200, 20_000), np.random.default_rng(6)
    rule = MarginRule(margin=0.01, false_pass=0.05, false_fail=0.05, interval_level=0.95)
    after = []
    for _ in range(9):
        drawn = chance.permutation(items)
        outcome = decide(drawn, drawn, len(items), rule)
        assert outcome.verdict is Verdict.NOT_INFERIOR
        assert outcome.decided_after is not None
        after.append(outcome.decided_after)
    assert np.median(after) < 0.2 * len(items)


def test_a_much_worse_variant_fails_early() -> None:
    items = np.random.default_rng(7).permutation(differences(200, 25))
    outcome = decide(items, items, SIZE, RULE)
    assert outcome.verdict is Verdict.INFERIOR
    assert outcome.decided_after is not None
    assert outcome.decided_after < 0.3 * SIZE
    assert not outcome.is_superior


def test_a_better_variant_is_superior() -> None:
    items = np.random.default_rng(8).permutation(differences(25, 200))
    outcome = decide(items[:400], items[:400], SIZE, RULE)
    assert (outcome.verdict, outcome.is_superior) == (Verdict.NOT_INFERIOR, True)


@given(
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.01, 0.25, 0.5]),
)
def test_with_all_items_in_the_answer_is_the_true_one_unless_given_before(items: list[float], margin: float) -> None:
    values = np.array(items)
    # Levels so small that only certainty decides.
    rule = MarginRule(margin, 1e-12, 1e-12, 0.999)
    outcome = decide(values, values, len(values), rule)
    expected = Verdict.NOT_INFERIOR if values.mean() >= -margin - 1e-9 else Verdict.INFERIOR
    assert outcome.verdict is expected
    assert outcome.reason == ""
    assert outcome.interval is not None
    assert outcome.interval.lower == pytest.approx(values.mean(), abs=1e-9)
    assert outcome.interval.upper == pytest.approx(values.mean(), abs=1e-9)


def test_failed_items_are_taken_at_the_worst_for_either_answer() -> None:
    lost = np.zeros(100)
    lost[::10] = 1.0
    outcome = decide(-lost, lost, 100, MarginRule(0.05, 1e-9, 1e-9, 0.999999))
    assert (outcome.verdict, outcome.reason) == (Verdict.UNDECIDED, "VALUES_MISSING")
    assert outcome.interval is not None
    assert (outcome.interval.lower, outcome.interval.upper) == pytest.approx((-0.1, 0.1))


def test_nothing_is_decided_from_nothing() -> None:
    outcome = decide(np.empty(0), np.empty(0), 10, RULE)
    assert (outcome.verdict, outcome.reason, outcome.interval) == (Verdict.UNDECIDED, "MORE_ITEMS_NEEDED", None)
