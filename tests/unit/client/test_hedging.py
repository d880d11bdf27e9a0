"""Which calls are slow, and how many second requests there are."""

import pytest
from evalfleet.hedging import Hedger, Hedging


def test_nothing_is_hedged_before_enough_is_known() -> None:
    hedger = Hedger(Hedging(fewest_calls=20))
    for _ in range(19):
        assert hedger.delay_seconds("request") is None
        hedger.answered("request", 0.01)
    hedger.answered("request", 0.01)
    assert hedger.delay_seconds("request") == 0.01
    # Another kind of request has latencies of its own.
    assert hedger.delay_seconds(17) is None


def test_the_delay_is_the_95th_percentile_of_what_was_seen_lately() -> None:
    hedger = Hedger(Hedging())
    for number in range(200):
        hedger.answered("request", number / 1000)
    delay = hedger.delay_seconds("request")
    assert delay is not None
    assert 0.170 <= delay <= 0.195
    for _ in range(300):
        hedger.answered("request", 0.5)
    assert hedger.delay_seconds("request") == 0.5


def test_second_requests_stay_within_the_budget() -> None:
    hedger = Hedger(Hedging(budget=0.05))
    spent = 0
    for calls in range(1, 1001):
        hedger.delay_seconds("request")
        spent += hedger.may_spend()
        assert spent <= 0.05 * calls + 1e-6
    assert spent == 50


def test_what_was_not_spent_is_saved_up_to_a_bound() -> None:
    hedger = Hedger(Hedging(budget=0.05))
    for _ in range(10_000):
        hedger.delay_seconds("request")
    assert sum(hedger.may_spend() for _ in range(100)) == 5


@pytest.mark.parametrize("wrong", [{"quantile": 1.0}, {"budget": 0.0}, {"budget": 1.5}, {"fewest_calls": 0}])
def test_what_is_no_share_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Hedging(**wrong)  # type: ignore[arg-type]
