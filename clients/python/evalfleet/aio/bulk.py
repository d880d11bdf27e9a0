"""Bulk calls on an event loop: any iterable in, sync or async, over streams that survive a service that restarts."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Final, Generic, TypeAlias, TypeVar

from evalfleet.bulk import batches_of, in_place
from evalfleet.errors import EvalFleetError
from evalfleet.message_sizes import is_too_large, too_large_alone
from evalfleet.window import WINDOW_ITEMS, MessageT, Patience, Sent, Window, may_reopen, stream_ended

ItemT = TypeVar("ItemT")
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

AnyIterable: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]
"""Items as a list, a generator or an asynchronous iterator. What is no async iterator is read on the event loop."""

_READ_AT_ONCE: Final = 32


class _Feed(Generic[RequestT, MessageT]):
    """Reads the caller's items for the streams that carry them, one stream at a time.

    The source is read in a task of its own: gRPC cancels the task that writes a stream's requests, and a cancelled
    asynchronous generator never goes on.
    """

    def __init__(self, source: AsyncIterator[RequestT | EvalFleetError], window: Window[RequestT, MessageT]) -> None:
        self._source = source
        self._window = window
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._stream_number = 0
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

    def stream(self) -> AsyncGenerator[Sent[RequestT], None]:
        """Return what is to be sent, until nothing more can come; a later call ends the earlier ones."""
        self._stream_number += 1
        self._window.begin_stream()
        self._work.set()
        return self._items_of(self._stream_number)

    async def first(self) -> AsyncGenerator[tuple[int, MessageT | EvalFleetError], None]:
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

    def take(self, message: MessageT) -> list[tuple[int, MessageT | EvalFleetError]]:
        """Note an outcome, and return those that are to be told now."""
        self._window.outcome(message)
        self._work.set()
        return self.told()

    def told(self) -> list[tuple[int, MessageT | EvalFleetError]]:
        """Return the outcomes that are to be told now."""
        told = list(self._window.told())
        self._room.set()
        return told

    async def _items_of(self, stream_number: int) -> AsyncGenerator[Sent[RequestT], None]:
        while stream_number == self._stream_number and not self._window.is_done and not self._window.is_idle:
            sent = self._window.next_to_send()
            if sent is not None:
                yield sent
                continue
            self._work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._window.next_due_seconds()):
                    await self._work.wait()


async def answered_items(
    source: AsyncIterator[RequestT | EvalFleetError],
    exchange: Callable[[AsyncGenerator[Sent[RequestT], None]], AsyncGenerator[MessageT, None]],
    *,
    error_of: Callable[[MessageT], EvalFleetError | None],
    patience_seconds: float,
    in_order: bool = False,
    window: int = WINDOW_ITEMS,
) -> AsyncGenerator[tuple[int, MessageT | EvalFleetError], None]:
    """Yield (number, outcome) of every item, once each; arguments and errors are those of ``bulk.answered_items``."""
    held: Window[RequestT, MessageT] = Window(window, in_order=in_order, error_of=error_of)
    feed = _Feed(source, held)
    patience = Patience(patience_seconds)
    reader = asyncio.create_task(feed.read(), name="items of a bulk call")
    try:
        while True:
            async for each in feed.first():
                yield each
            if held.is_done:
                break
            problem: EvalFleetError = stream_ended()
            try:
                async with aclosing(exchange(feed.stream())) as messages:
                    async for message in messages:
                        patience.heard()
                        for each in feed.take(message):
                            yield each
            except EvalFleetError as error:
                if not may_reopen(error):
                    raise
                problem = error
            for each in feed.told():
                yield each
            if held.open_count:
                pause = patience.pause_after(problem)
                if pause is None:
                    raise problem
                await asyncio.sleep(pause)
    finally:
        reader.cancel()
        await asyncio.wait([reader])
    if feed.failure is not None:
        raise feed.failure


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
