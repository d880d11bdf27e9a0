"""Bulk calls on an event loop: the rules are those of the blocking ones; here is what a loop adds."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest
from evalfleet.aio.bulk import AnyIterable, answered_items, each_of
from evalfleet.errors import EvalFleetError, ResourceExhaustedError, UnavailableError
from evalfleet.window import Sent

from tests.patience import LONGEST_WAIT_SECONDS, until


@dataclass(frozen=True)
class FakeOutcome:
    """What a fake service makes of an item."""

    item_id: str
    text: str = ""
    error: EvalFleetError | None = None


Exchange = Callable[[AsyncGenerator[Sent[str], None]], AsyncGenerator[FakeOutcome, None]]


class FakeStream:
    """A stream over the messages of a fake service, one item each."""

    def __init__(self, outcomes: AsyncGenerator[FakeOutcome, None]) -> None:
        self._outcomes = outcomes

    def answers(self) -> AsyncGenerator[FakeOutcome, None]:
        return self._outcomes

    async def said_at_first(self, _key: str) -> str:
        return ""

    def close(self) -> None:
        pass


def told(
    source: AnyIterable[str | EvalFleetError], exchange: Exchange, *, in_order: bool = False, window: int = 8
) -> AsyncGenerator[tuple[int, FakeOutcome | EvalFleetError], None]:
    def open_stream(groups: AsyncGenerator[list[Sent[str]], None]) -> FakeStream:
        return FakeStream(exchange(each async for group in groups for each in group))

    return answered_items(
        each_of(source),
        open_stream,
        outcomes_in=lambda outcome: [outcome],
        error_of=lambda outcome: outcome.error,
        patience_seconds=LONGEST_WAIT_SECONDS,
        silence_seconds=LONGEST_WAIT_SECONDS,
        in_order=in_order,
        window=window,
    )


async def texts(
    outcomes: AsyncGenerator[tuple[int, FakeOutcome | EvalFleetError], None],
) -> list[tuple[int, str]]:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [
            (number, each.reason if isinstance(each, EvalFleetError) else each.text) async for number, each in outcomes
        ]


async def echo(items: AsyncGenerator[Sent[str], None]) -> AsyncGenerator[FakeOutcome, None]:
    """Answer as a service does: what is sent is read by a task of its own."""
    received: asyncio.Queue[Sent[str] | None] = asyncio.Queue()

    async def read() -> None:
        async for each in items:
            received.put_nowait(each)
        received.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (each := await received.get()) is not None:
            yield FakeOutcome(each.item_id, each.request)
    finally:
        # As gRPC does with a call that ends.
        reader.cancel()


@pytest.fixture(autouse=True)
def pause_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfleet.window._FIRST_PAUSE_SECONDS", 0.001)


def bad() -> EvalFleetError:
    return EvalFleetError("bad", reason="OUTPUT_INVALID")


async def test_any_iterable_is_read_and_what_cannot_be_sent_is_told() -> None:
    requests: list[str | EvalFleetError] = [bad(), "a", bad(), "b", bad()]
    expected = [(0, "OUTPUT_INVALID"), (1, "a"), (2, "OUTPUT_INVALID"), (3, "b"), (4, "OUTPUT_INVALID")]
    for window in (1, 2, 8):
        for source in (requests, iter(requests), each_of(requests)):
            assert await texts(told(source, echo, in_order=True, window=window)) == expected
    assert await texts(told([], echo)) == []
    many = [bad() for _ in range(5000)]
    assert len(await texts(told(many, echo, window=64))) == 5000


async def test_an_interrupted_stream_goes_on_where_it_was() -> None:
    streams: list[list[str]] = []

    async def exchange(items: AsyncGenerator[Sent[str], None]) -> AsyncGenerator[FakeOutcome, None]:
        streams.append([])
        async with aclosing(echo(items)) as outcomes:
            async for each in outcomes:
                if len(streams) < 3 and len(streams[-1]) == 50:
                    raise UnavailableError("away")
                streams[-1].append(each.item_id)
                yield each

    found = await texts(told(map(str, range(200)), exchange))
    assert sorted(found) == [(number, str(number)) for number in range(200)]
    assert len(streams) == 3
    assert sorted(int(each) for stream in streams for each in stream) == list(range(200))


async def test_a_stream_takes_items_for_a_while_finishes_them_and_another_takes_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evalfleet.window.TAKING_SECONDS", 0.05)
    streams: list[list[str]] = []
    is_closed = asyncio.Event()

    async def exchange(items: AsyncGenerator[Sent[str], None]) -> AsyncGenerator[FakeOutcome, None]:
        """Answer once nothing more can come, as an item does that lasts longer than its stream takes others."""
        received = [each async for each in items]
        streams.append([each.item_id for each in received])
        is_closed.set()
        for each in received:
            yield FakeOutcome(each.item_id, each.request)

    async def source() -> AsyncGenerator[str, None]:
        yield "a"
        await is_closed.wait()
        yield "b"

    assert await texts(told(source(), exchange)) == [(0, "a"), (1, "b")]
    assert streams == [["0"], ["1"]]


async def test_an_asynchronous_source_outlives_the_streams_that_carry_it() -> None:
    """GRPC cancels whoever writes a broken stream, and a cancelled generator never goes on."""
    is_broken = asyncio.Event()
    streams = 0

    async def source() -> AsyncIterator[str]:
        yield "a"
        await is_broken.wait()
        yield "b"

    async def exchange(items: AsyncGenerator[Sent[str], None]) -> AsyncGenerator[FakeOutcome, None]:
        nonlocal streams
        streams += 1
        async with aclosing(echo(items)) as outcomes:
            async for each in outcomes:
                yield each
                if streams == 1:
                    is_broken.set()
                    raise UnavailableError("away")

    assert await texts(told(source(), exchange)) == [(0, "a"), (1, "b")]


async def test_no_more_items_are_held_than_the_window_has_places() -> None:
    read = 0

    async def source() -> AsyncIterator[str]:
        nonlocal read
        for number in itertools.count():
            read = number + 1
            yield str(number)

    async with aclosing(told(source(), echo, window=4)) as outcomes:
        async for number, _ in outcomes:
            assert read <= number + 1 + 8
            if number == 100:
                break


async def test_a_source_may_wait_for_outcomes() -> None:
    answers: asyncio.Queue[str | EvalFleetError] = asyncio.Queue()

    async def source() -> AsyncIterator[str | EvalFleetError]:
        yield "0"
        for _ in range(20):
            yield await answers.get()

    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for number, _ in told(source(), echo, window=1):
            # One that cannot be sent must not hold up its own outcome, either.
            answers.put_nowait(bad() if number % 2 else "x")


async def test_an_item_whose_outcome_says_so_is_sent_again() -> None:
    async def busy(items: AsyncGenerator[Sent[str], None]) -> AsyncGenerator[FakeOutcome, None]:
        async with aclosing(echo(items)) as outcomes:
            async for each in outcomes:
                refused = ResourceExhaustedError("busy", retry_after_seconds=0.001)
                yield FakeOutcome(each.item_id, each.text, None if "." in each.item_id else refused)

    assert sorted(await texts(told("ab", busy))) == [(0, "a"), (1, "b")]


async def test_what_the_source_raises_comes_after_what_it_gave() -> None:
    async def source() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        raise ZeroDivisionError

    outcomes = told(source(), echo)
    assert [number for number, _ in (await anext(outcomes), await anext(outcomes))] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        await anext(outcomes)


async def test_leaving_early_and_being_cancelled_leave_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with aclosing(told(map(str, itertools.count()), echo)) as outcomes:
        async for number, _ in outcomes:
            if number == 10:
                break
    await until(lambda: asyncio.all_tasks() == before)

    has_begun = asyncio.Event()

    async def never_ending() -> None:
        async for _ in told(map(str, itertools.count()), echo):
            has_begun.set()

    task = asyncio.create_task(never_ending())
    await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: asyncio.all_tasks() == before)
