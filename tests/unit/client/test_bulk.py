"""Many requests of which some cannot be sent: each has its own outcome, under its own number."""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from evalfleet.bulk import answered_batches, answered_items
from evalfleet.errors import EvalFleetError, ResourceExhaustedError, UnavailableError
from evalfleet.window import Sent

from tests.patience import LONGEST_WAIT_SECONDS


def unsendable(text: str) -> EvalFleetError:
    return EvalFleetError(text, reason="OUTPUT_INVALID")


def test_batches_carry_what_can_be_sent_and_results_stay_with_their_requests() -> None:
    asked: list[list[int]] = []

    def ask(some: list[int]) -> list[int]:
        asked.append(some)
        return [-each for each in some]

    bad = unsendable("bad")
    requests: list[int | EvalFleetError] = [1, bad, 2, bad, bad, bad, 3]
    assert answered_batches(iter(requests), ask, largest=3) == [-1, bad, -2, bad, bad, bad, -3]
    assert asked == [[1, 2], [3]]


def test_a_batch_with_another_number_of_results_is_an_error() -> None:
    with pytest.raises(EvalFleetError) as caught:
        answered_batches([1, 2], lambda some: some[:1], largest=2)
    assert caught.value.reason == "WRONG_RESULT_COUNT"


@dataclass(frozen=True)
class FakeOutcome:
    """What a fake service makes of an item."""

    item_id: str
    text: str = ""
    error: EvalFleetError | None = None


def error_of(outcome: FakeOutcome) -> EvalFleetError | None:
    return outcome.error


Exchange = Callable[[Iterator[Sent[str]]], Generator[FakeOutcome]]


def told(
    source: Iterable[str | EvalFleetError],
    exchange: Exchange,
    *,
    patience_seconds: float = 60,
    in_order: bool = False,
    window: int = 8,
) -> Iterator[tuple[int, FakeOutcome | EvalFleetError]]:
    return answered_items(
        source,
        exchange,
        error_of=error_of,
        patience_seconds=patience_seconds,
        in_order=in_order,
        window=window,
    )


def echo(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
    for each in items:
        yield FakeOutcome(each.item_id, each.request)


def texts(outcomes: Iterable[tuple[int, FakeOutcome | EvalFleetError]]) -> list[tuple[int, str]]:
    return [(number, each.reason if isinstance(each, EvalFleetError) else each.text) for number, each in outcomes]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that have passed; whoever pauses moves it on."""
    passed = [0.0]

    def pause(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr("evalfleet.window.time", SimpleNamespace(monotonic=lambda: 100 + passed[0]))
    monkeypatch.setattr("evalfleet.bulk.time", SimpleNamespace(sleep=pause))
    return passed


def test_streams_that_end_without_all_outcomes_are_tried_for_a_while(clock: list[float]) -> None:
    streams = 0

    def forgetful(forgets: int) -> Exchange:
        def exchange(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
            nonlocal streams
            streams += 1
            for each in items:
                if each.item_id != "0" and streams <= forgets:
                    return
                yield FakeOutcome(each.item_id)

        return exchange

    assert [number for number, _ in told("ab", forgetful(3))] == [0, 1]
    assert streams == 4
    outcomes = told("ab", forgetful(1_000_000), patience_seconds=5)
    assert next(outcomes)[0] == 0
    clock[0] = 0.0
    with pytest.raises(EvalFleetError) as caught:
        next(outcomes)
    assert caught.value.reason == "STREAM_ENDED"
    assert 5 < clock[0] < 20


def test_a_stream_carries_what_can_be_sent_and_goes_on_after_a_break(clock: list[float]) -> None:
    streams: list[list[str]] = []

    def exchange(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        streams.append([])
        for each in items:
            streams[-1].append(each.item_id)
            if each.request == "b" and ["3"] not in streams[:-1]:
                raise UnavailableError("away")
            yield FakeOutcome(each.item_id, each.request)

    bad = unsendable("bad")
    requests: list[str | EvalFleetError] = [bad, "a", bad, "b", "c", bad]
    found = told(iter(requests), exchange)
    assert sorted(texts(found)) == [
        (0, "OUTPUT_INVALID"),
        (1, "a"),
        (2, "OUTPUT_INVALID"),
        (3, "b"),
        (4, "c"),
        (5, "OUTPUT_INVALID"),
    ]
    # An item that was answered is not sent again, one that was not is; one that cannot be sent needs no stream.
    assert streams == [["1"], ["3"], ["3", "4"]]


def test_what_cannot_be_sent_is_told_without_waiting_for_more() -> None:
    asked: list[int] = []

    def source() -> Iterator[str | EvalFleetError]:
        for number in range(3):
            assert asked == list(range(number)), "each waits for the outcome of the one before"
            yield unsendable("bad")

    for number, _ in told(source(), echo):
        asked.append(number)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("in_order", [False, True])
def test_no_more_items_are_held_than_the_window_has_places(in_order: bool) -> None:
    read = 0

    def source() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read = number + 1
            yield str(number)

    def backwards(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        held = []
        for each in items:
            held.append(each)
            if len(held) == 4 or each.request == "199":
                for one in reversed(held):
                    yield FakeOutcome(one.item_id, one.request)
                held.clear()

    order: list[int] = []
    for number, outcome in told(source(), in_a_thread(backwards), in_order=in_order, window=4):
        order.append(number)
        assert isinstance(outcome, FakeOutcome)
        assert outcome.text == str(number)
        # Four may be on their way to the caller, and four more be read.
        assert read <= len(order) + 8
    assert sorted(order) == list(range(200))
    assert (order == list(range(200))) is in_order


def test_an_item_whose_outcome_says_so_is_sent_again_under_another_id() -> None:
    sent: list[str] = []

    def busy(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        for each in items:
            sent.append(each.item_id)
            is_first = sum(one.partition(".")[0] == each.item_id.partition(".")[0] for one in sent) == 1
            error = ResourceExhaustedError("busy", retry_after_seconds=0.001) if is_first else None
            yield FakeOutcome(each.item_id, each.request, error)

    assert sorted(texts(told("ab", busy))) == [(0, "a"), (1, "b")]
    assert sorted(sent) == ["0", "0.1", "1", "1.1"]


def test_an_item_that_always_fails_has_its_error_in_the_end() -> None:
    def refuse(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        for each in items:
            yield FakeOutcome(each.item_id, "", ResourceExhaustedError("busy", retry_after_seconds=0.001))

    [(number, outcome)] = told("a", refuse)
    assert number == 0
    assert isinstance(outcome, FakeOutcome)
    assert isinstance(outcome.error, ResourceExhaustedError)


def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    def source() -> Iterator[str]:
        yield "a"
        yield "b"
        raise ZeroDivisionError

    outcomes = told(source(), echo)
    assert sorted(number for number, _ in (next(outcomes), next(outcomes))) == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_a_source_may_wait_for_outcomes() -> None:
    answers: queue.Queue[str] = queue.Queue()

    def source() -> Iterator[str]:
        yield "0"
        for _ in range(20):
            yield answers.get(timeout=LONGEST_WAIT_SECONDS) + "+"

    for number, outcome in told(source(), in_a_thread(echo), window=1):
        assert isinstance(outcome, FakeOutcome)
        assert outcome.text == "0" + "+" * number
        answers.put(outcome.text)


def test_a_source_is_not_asked_for_more_while_something_is_to_be_sent() -> None:
    """The thread of a broken stream may be the one that reads the next item."""
    is_read, answers = threading.Event(), queue.Queue[str]()
    streams = 0

    def source() -> Iterator[str]:
        yield "a"
        is_read.wait(LONGEST_WAIT_SECONDS)
        yield "b"
        # Asked too early, it would wait for an outcome that nobody gets while it is asked.
        yield answers.get(timeout=5) + "c"

    def exchange(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        nonlocal streams
        streams += 1
        yield from itertools.islice(echo(items), 1) if streams == 1 else echo(items)
        if streams == 1:
            threading.Timer(0.02, is_read.set).start()
            raise UnavailableError("away")

    seen = []
    for _, outcome in told(source(), in_a_thread(exchange)):
        assert isinstance(outcome, FakeOutcome)
        seen.append(outcome.text)
        answers.put(outcome.text) if outcome.text == "b" else None
    assert seen == ["a", "b", "bc"]


def in_a_thread(exchange: Exchange) -> Exchange:
    """Have the requests read by a thread, as gRPC does."""

    def threaded(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        received: queue.Queue[Sent[str] | None] = queue.Queue()

        def read() -> None:
            for each in items:
                received.put(each)
            received.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from exchange(iter(received.get, None))

    return threaded


def test_leaving_the_loop_lets_the_thread_go_that_reads() -> None:
    before = threading.active_count()
    outcomes = told(map(str, itertools.count()), in_a_thread(echo))
    for _ in zip(range(10), outcomes, strict=False):
        pass
    assert isinstance(outcomes, Generator)
    outcomes.close()
    give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while threading.active_count() > before:
        assert time.monotonic() < give_up_at
        threading.Event().wait(0.005)
