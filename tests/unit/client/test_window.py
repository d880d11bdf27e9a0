"""The items in hand: what of a stream's outcomes counts."""

from dataclasses import dataclass

from evalfleet.errors import EvalFleetError, UnavailableError
from evalfleet.window import Window


@dataclass(frozen=True)
class FakeOutcome:
    item_id: str
    error: EvalFleetError | None = None


def open_window() -> Window[str, FakeOutcome]:
    return Window(8, in_order=False, error_of=lambda outcome: outcome.error, clock=lambda: 0.0)


def test_an_outcome_counts_once_and_only_of_an_item_that_is_open() -> None:
    window = open_window()
    window.read("a")
    for item_id in ("7", "x", "", "-1", "0.1", "0", "0"):
        window.outcome(FakeOutcome(item_id))
    assert list(window.told()) == [(0, FakeOutcome("0"))]
    assert list(window.told()) == []


def test_an_outcome_of_an_earlier_try_is_dropped() -> None:
    window = open_window()
    window.read("a")
    window.outcome(FakeOutcome("0", UnavailableError("away", retry_after_seconds=0.0)))
    window.outcome(FakeOutcome("0"))
    assert list(window.told()) == []
    sent = window.next_to_send()
    assert sent is not None
    window.outcome(FakeOutcome(sent.item_id))
    assert list(window.told()) == [(0, FakeOutcome("0.1"))]


def test_a_new_stream_carries_what_is_open_the_oldest_first() -> None:
    window = open_window()
    for text in "abc":
        window.read(text)
        window.next_to_send()
    window.outcome(FakeOutcome("1"))
    window.begin_stream()
    assert [window.next_to_send(), window.next_to_send(), window.next_to_send()] == [("0", "a"), ("2", "c"), None]
