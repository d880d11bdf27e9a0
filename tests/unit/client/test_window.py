"""The items in hand: what of a stream's outcomes counts."""

from dataclasses import dataclass

from evalfleet.errors import EvalFleetError, UnavailableError
from evalfleet.generation.v1 import generation_pb2
from evalfleet.window import Silence, Window


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
    [sent] = window.next_to_send()
    window.outcome(FakeOutcome(sent.item_id))
    assert list(window.told()) == [(0, FakeOutcome("0.1"))]


def test_a_new_stream_carries_what_is_open_the_oldest_first() -> None:
    window = open_window()
    for text in "abc":
        window.read(text)
        window.next_to_send()
    window.outcome(FakeOutcome("1"))
    window.begin_stream()
    assert [window.next_to_send(), window.next_to_send(), window.next_to_send()] == [[("0", "a")], [("2", "c")], []]


def test_a_message_carries_no_more_than_a_megabyte_unless_one_item_is_larger() -> None:
    window: Window[generation_pb2.GenerateRequest, FakeOutcome] = Window(
        8, in_order=False, error_of=lambda outcome: outcome.error
    )
    for size in (400_000, 400_000, 400_000, 3_000_000, 1):
        window.read(generation_pb2.GenerateRequest(prompt="x" * size))
    groups = [[each.item_id for each in window.next_to_send(64)] for _ in range(4)]
    assert groups == [["0", "1"], ["2"], ["3"], ["4"]]


def test_silence_is_time_in_which_somebody_listens_and_items_wait() -> None:
    now = [0.0]
    window: Window[str, FakeOutcome] = Window(
        8, in_order=False, error_of=lambda outcome: outcome.error, clock=lambda: now[0]
    )
    silence = Silence(window, 10.0, clock=lambda: now[0])
    now[0] = 100.0
    assert silence.left_seconds == 10.0, "nothing waits for an outcome"
    window.read("a")
    window.read("b")
    now[0] = 106.0
    assert silence.left_seconds == 4.0
    silence.listen(False)
    window.outcome(FakeOutcome("0"))
    now[0] = 500.0
    assert silence.left_seconds == 10.0, "whoever was told takes their time"
    silence.listen(True)
    now[0] = 511.0
    assert silence.left_seconds == 0.0
    assert silence.error().reason == "STREAM_SILENT"
