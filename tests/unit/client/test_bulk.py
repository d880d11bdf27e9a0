"""Many requests of which some cannot be sent: each has its own outcome, under its own number."""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from evalfleet.batches import answered_batches
from evalfleet.bulk import answered_items, by_id
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


class FakeStream:
    """A stream over the messages of a fake service; each carries one item or, where the service says so, several."""

    def __init__(self, outcomes: Generator[FakeOutcome], said: str) -> None:
        self._outcomes = outcomes
        self._said = said

    def answers(self) -> Generator[FakeOutcome]:
        return self._outcomes

    def said_at_first(self, _key: str) -> str:
        return self._said

    def close(self) -> None:
        pass


def told(
    source: Iterable[str | EvalFleetError],
    exchange: Exchange,
    *,
    patience_seconds: float = 60,
    in_order: bool = False,
    window: int = 8,
) -> Iterator[tuple[int, FakeOutcome | EvalFleetError]]:
    def open_stream(groups: Iterator[list[Sent[str]]]) -> FakeStream:
        return FakeStream(exchange(each for group in groups for each in group), "")

    return answered_items(
        source,
        open_stream,
        outcomes_in=lambda outcome: [outcome],
        error_of=error_of,
        patience_seconds=patience_seconds,
        silence_seconds=LONGEST_WAIT_SECONDS,
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
    sent: list[str] = []

    def exchange(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        for each in items:
            sent.append(each.item_id)
            if each.request == "b" and sent.count(each.item_id) == 1:
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
    # An item that was answered is not sent again, one that was not is; one that cannot be sent never is.
    assert sorted(sent) == ["1", "3", "3", "4"]


def test_a_stream_takes_items_for_a_while_finishes_them_and_another_takes_the_next(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.window.TAKING_SECONDS", 0.05)
    streams: list[list[str]] = []
    is_closed = threading.Event()

    def exchange(items: Iterator[Sent[str]]) -> Generator[FakeOutcome]:
        """Answer once nothing more can come, as an item does that lasts longer than its stream takes others."""
        received = list(items)
        streams.append([each.item_id for each in received])
        is_closed.set()
        for each in received:
            yield FakeOutcome(each.item_id, each.request)

    def source() -> Iterator[str]:
        yield "a"
        assert is_closed.wait(LONGEST_WAIT_SECONDS)
        yield "b"

    assert texts(told(source(), exchange)) == [(0, "a"), (1, "b")]
    assert streams == [["0"], ["1"]]
    assert clock == [0.0], "nothing went wrong, so nobody pauses"


def test_what_cannot_be_sent_is_told_without_waiting_for_more() -> None:
    answered: queue.Queue[int] = queue.Queue()

    def source() -> Iterator[str | EvalFleetError]:
        yield unsendable("bad")
        for _ in range(2):
            answered.get(timeout=LONGEST_WAIT_SECONDS)
            yield unsendable("bad")

    asked = []
    for number, _ in told(source(), echo):
        asked.append(number)
        answered.put(number)
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


def test_a_source_that_waits_for_an_outcome_holds_up_nothing_that_it_gave() -> None:
    is_read, answers = threading.Event(), queue.Queue[str]()
    streams = 0

    def source() -> Iterator[str]:
        yield "a"
        is_read.wait(LONGEST_WAIT_SECONDS)
        yield "b"
        # It waits for the outcome of what it gave last, which was read after the first stream had broken.
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


def test_items_that_wait_together_go_together_where_the_service_reads_such() -> None:
    """Until the service has said so, and over one that never does, each goes in a message of its own."""
    is_read = threading.Event()

    def source() -> Iterator[str]:
        yield from map(str, range(200))
        is_read.set()

    def sizes(said: str) -> list[int]:
        is_read.clear()
        sent: list[int] = []

        def open_stream(groups: Iterator[list[Sent[str]]]) -> FakeStream:
            def outcomes() -> Generator[FakeOutcome]:
                is_read.wait(LONGEST_WAIT_SECONDS)
                for group in groups:
                    sent.append(len(group))
                    yield from [FakeOutcome(each.item_id, each.request) for each in group]

            return FakeStream(outcomes(), said)

        outcomes = answered_items(
            source(),
            open_stream,
            outcomes_in=lambda outcome: [outcome],
            error_of=error_of,
            patience_seconds=LONGEST_WAIT_SECONDS,
            silence_seconds=LONGEST_WAIT_SECONDS,
        )
        assert sorted(texts(outcomes)) == [(number, str(number)) for number in range(200)]
        return sent

    assert sizes("1") == [64, 64, 64, 8]
    assert sizes("") == [1] * 200


def test_items_come_back_with_the_ids_that_they_brought() -> None:
    rows = [("row-7", "a"), ("row-2", "b"), ("row-7", "c")]
    told_of = by_id(lambda items: told(items, echo), rows)
    assert sorted((item_id, outcome.text) for item_id, outcome in told_of if isinstance(outcome, FakeOutcome)) == [
        ("row-2", "b"),
        ("row-7", "a"),
        ("row-7", "c"),
    ]


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
