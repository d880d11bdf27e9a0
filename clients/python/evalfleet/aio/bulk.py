"""Bulk calls on an event loop: any iterable in, sync or async, over streams that survive a service that restarts."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, closing, suppress
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import grpc.aio

from evalfleet.aio.connections import AsyncConnection, AsyncExchange
from evalfleet.aio.silence import ended_if_silent
from evalfleet.batches import batches_of, in_place
from evalfleet.errors import EvalFleetError
from evalfleet.message_sizes import is_too_large, too_large_alone
from evalfleet.window import (
    GROUPS_KEY,
    LARGEST_GROUP,
    LONGEST_STREAM_SECONDS,
    WINDOW_ITEMS,
    OutcomeT,
    Patience,
    Sent,
    Silence,
    Window,
    may_reopen,
    stream_ended,
)

ItemT = TypeVar("ItemT")
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
IdT = TypeVar("IdT")
AskedT = TypeVar("AskedT")
MessageT = TypeVar("MessageT")
ToldT = TypeVar("ToldT", covariant=True)

AnyIterable: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]
"""Items as a list, a generator or an asynchronous iterator. What is no async iterator is read on the event loop."""

_READ_AT_ONCE: Final = 32


class OpenStream(Protocol[ToldT]):
    """A stream that carries items; see ``evalfleet.aio.connections.AsyncExchange``."""

    def answers(self) -> AsyncGenerator[ToldT, None]:
        """Yield what the service says of them."""

    async def said_at_first(self, key: str) -> str:
        """Return an entry of the service's initial metadata."""

    def close(self) -> None:
        """End it."""


class _Feed(Generic[RequestT, OutcomeT]):
    """Reads the caller's items for the streams that carry them, one stream at a time.

    The source is read in a task of its own: gRPC cancels the task that writes a stream's requests, and a cancelled
    asynchronous generator never goes on.

    Attributes:
        takes_groups: whether the service reads messages of several items.
        failure: what the source raised.
    """

    def __init__(self, source: AsyncIterator[RequestT | EvalFleetError], window: Window[RequestT, OutcomeT]) -> None:
        self._source = source
        self._window = window
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._stream_number = 0
        self.takes_groups = False
        self.failure: BaseException | None = None

    async def read(self) -> None:
        """Read the source to its end, as far as there is room."""
        try:
            async for item in self._source:
                self._window.read(item)
                self._work.set()
                while not self._window.has_room:
                    self._room.clear()
                    await self._room.wait()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised once what was read is told
            self.failure = error
        finally:
            self._window.is_exhausted = True
            self._work.set()

    def stream(self) -> AsyncGenerator[list[Sent[RequestT]], None]:
        """Return what is to be sent, a message at a time, until nothing more can come; ends earlier ones."""
        self._stream_number += 1
        self.takes_groups = False
        self._window.begin_stream()
        self._work.set()
        return self._messages_of(self._stream_number)

    async def first(self) -> AsyncGenerator[tuple[int, OutcomeT | EvalFleetError], None]:
        """Wait until there is something to send, or nothing more; yield what is told of what cannot be sent."""
        self._stream_number += 1
        while not self._window.open_count and not self._window.is_exhausted:
            self._work.clear()
            told = self.told()
            for each in told:
                yield each
            if not told:
                await self._work.wait()
        for each in self.told():
            yield each

    def take(self, outcomes: Iterable[OutcomeT]) -> list[tuple[int, OutcomeT | EvalFleetError]]:
        """Note outcomes, and return those that are to be told now."""
        for each in outcomes:
            self._window.outcome(each)
        self._work.set()
        return self.told()

    def told(self) -> list[tuple[int, OutcomeT | EvalFleetError]]:
        """Return the outcomes that are to be told now."""
        told = list(self._window.told())
        self._room.set()
        return told

    async def _messages_of(self, stream_number: int) -> AsyncGenerator[list[Sent[RequestT]], None]:
        while stream_number == self._stream_number and not self._window.is_all_sent:
            group = self._window.next_to_send(LARGEST_GROUP if self.takes_groups else 1)
            if group:
                yield group
                continue
            self._work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._window.next_due_seconds()):
                    await self._work.wait()


def item_streams(
    connection: AsyncConnection,
    method: grpc.aio.StreamStreamMultiCallable[AskedT, MessageT],
    message: Callable[[Sequence[Sent[RequestT]]], AskedT],
) -> Callable[[AsyncGenerator[list[Sent[RequestT]], None]], AsyncExchange[MessageT]]:
    """Return what opens a stream for items; the arguments are those of ``bulk.item_streams``."""

    def open_stream(groups: AsyncGenerator[list[Sent[RequestT]], None]) -> AsyncExchange[MessageT]:
        return connection.open_exchange(
            method, (message(each) async for each in groups), timeout_seconds=LONGEST_STREAM_SECONDS
        )

    return open_stream


async def answered_items(
    source: AsyncIterator[RequestT | EvalFleetError],
    open_stream: Callable[[AsyncGenerator[list[Sent[RequestT]], None]], OpenStream[MessageT]],
    *,
    outcomes_in: Callable[[MessageT], Iterable[OutcomeT]],
    error_of: Callable[[OutcomeT], EvalFleetError | None],
    patience_seconds: float,
    silence_seconds: float,
    in_order: bool = False,
    window: int = WINDOW_ITEMS,
) -> AsyncGenerator[tuple[int, OutcomeT | EvalFleetError], None]:
    """Yield (number, outcome) of every item, once each; arguments and errors are those of ``bulk.answered_items``."""
    held: Window[RequestT, OutcomeT] = Window(window, in_order=in_order, error_of=error_of)
    feed = _Feed(source, held)
    patience = Patience(patience_seconds)
    reader = asyncio.create_task(feed.read(), name="items of a bulk call")
    try:
        while True:
            async for each in feed.first():
                yield each
            if held.is_done:
                break
            silence = Silence(held, silence_seconds)
            problem: EvalFleetError = stream_ended()
            try:
                with closing(open_stream(feed.stream())) as stream, ended_if_silent(silence, stream.close):
                    feed.takes_groups = await stream.said_at_first(GROUPS_KEY) == "1"
                    async with aclosing(stream.answers()) as messages:
                        async for message in messages:
                            silence.listen(False)
                            patience.heard()
                            for each in feed.take(outcomes_in(message)):
                                yield each
                            silence.listen(True)
            except EvalFleetError as error:
                problem = silence.error() if silence.was_too_long else error
                if not may_reopen(problem):
                    raise
            for each in feed.told():
                yield each
            if held.open_count and not held.is_stream_old:
                pause = patience.pause_after(problem)
                if pause is None:
                    raise problem
                await asyncio.sleep(pause)
    finally:
        reader.cancel()
        await asyncio.wait([reader])
    if feed.failure is not None:
        raise feed.failure


async def by_id(
    ask: Callable[[AsyncIterator[ItemT]], AsyncGenerator[tuple[int, ResultT], None]],
    items: AnyIterable[tuple[IdT, ItemT]],
) -> AsyncGenerator[tuple[IdT, ResultT], None]:
    """Yield (id, outcome) of items that bring their own ids; the arguments are those of ``bulk.by_id``.

    Use ``contextlib.aclosing`` where the loop may be left early.
    """
    ids: dict[int, IdT] = {}

    async def noted() -> AsyncGenerator[ItemT, None]:
        number = 0
        async for item_id, item in each_of(items):
            ids[number] = item_id
            number += 1
            yield item

    async with aclosing(ask(noted())) as outcomes:
        async for number, outcome in outcomes:
            yield ids.pop(number), outcome


async def each_of(items: AnyIterable[ItemT]) -> AsyncGenerator[ItemT, None]:
    """Yield the items; others on the loop have their turn in between."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for number, item in enumerate(items, start=1):
        yield item
        if number % _READ_AT_ONCE == 0:
            await asyncio.sleep(0)


async def answered_batches(
    source: Iterable[RequestT | EvalFleetError],
    ask: Callable[[list[RequestT]], Awaitable[Sequence[ResultT]]],
    *,
    largest: int,
) -> list[ResultT | EvalFleetError]:
    """Return one result a request, in their order; arguments and errors are those of ``bulk.answered_batches``."""
    outcomes: list[ResultT | EvalFleetError] = []
    for some in batches_of(source, largest):
        sent = [each for each in some if not isinstance(each, EvalFleetError)]
        outcomes += in_place(some, await _asked(sent, ask) if sent else ())
    return outcomes


async def _asked(
    requests: list[RequestT], ask: Callable[[list[RequestT]], Awaitable[Sequence[ResultT]]]
) -> list[ResultT | EvalFleetError]:
    try:
        return in_place(requests, await ask(requests))
    except EvalFleetError as error:
        if not is_too_large(error):
            raise
        if len(requests) == 1:
            return [too_large_alone(error)]
    middle = len(requests) // 2
    return [*await _asked(requests[:middle], ask), *await _asked(requests[middle:], ask)]
