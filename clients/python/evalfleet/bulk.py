"""Many requests: in batches, or over streams that survive a service that restarts; what cannot be sent fails alone."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Generic, TypeVar

from evalfleet.errors import EvalFleetError
from evalfleet.message_sizes import LARGEST_ITEM_BYTES, is_too_large, size_bytes, too_large_alone
from evalfleet.window import WINDOW_ITEMS, MessageT, Patience, Sent, Window, may_reopen, stream_ended

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class _Feed(Generic[RequestT, MessageT]):
    """Reads the caller's items for the streams that carry them, one stream at a time.

    gRPC iterates over a stream's requests in a thread of its own, which may outlive its call.
    """

    def __init__(self, source: Iterable[RequestT | EvalFleetError], window: Window[RequestT, MessageT]) -> None:
        self._source = iter(source)
        self._window = window
        self._changed = threading.Condition()
        # Apart from the condition: while the source makes us wait, outcomes must still be told.
        self._reading = threading.Lock()
        self._stream_number = 0
        self.failure: Exception | None = None

    def stream(self) -> Iterator[Sent[RequestT]]:
        """Return what is to be sent, until nothing more can come; a later call ends the earlier ones."""
        with self._changed:
            self._stream_number += 1
            self._window.begin_stream()
            self._changed.notify_all()
            return self._items_of(self._stream_number)

    def first(self) -> Iterator[tuple[int, MessageT | EvalFleetError]]:
        """Read until there is something to send, or nothing more; yield what is told of what cannot be sent."""
        with self._changed:
            self._stream_number += 1
            mine = self._stream_number
        while not self._window.open_count and not self._window.is_exhausted:
            self._read(mine)
            yield from self.take(None)
        yield from self.take(None)

    def take(self, message: MessageT | None) -> list[tuple[int, MessageT | EvalFleetError]]:
        """Note an outcome, and return those that are to be told now."""
        with self._changed:
            if message is not None:
                self._window.outcome(message)
            told = list(self._window.told())
            self._changed.notify_all()
        return told

    def end(self) -> None:
        """Let the threads of all streams go."""
        with self._changed:
            self._stream_number += 1
            self._changed.notify_all()

    def _items_of(self, stream_number: int) -> Iterator[Sent[RequestT]]:
        while True:
            with self._changed:
                if stream_number != self._stream_number or self._window.is_done or self._window.is_idle:
                    return
                sent = self._window.next_to_send()
                if sent is None and not (self._window.has_room and not self._window.is_exhausted):
                    self._changed.wait(self._window.next_due_seconds())
                    continue
            if sent is not None:
                yield sent
            else:
                self._read(stream_number)

    def _read(self, stream_number: int) -> None:
        with self._reading:
            with self._changed:
                # While this thread waited for its turn, another may have read.
                may_read = self._window.has_room and not self._window.is_exhausted and not self._window.has_to_send
                if stream_number != self._stream_number or not may_read:
                    return
            try:
                items = [next(self._source)]
            except StopIteration:
                items = []
            except Exception as error:  # noqa: BLE001 - in gRPC's thread it would be lost: kept for the caller's
                self.failure = error
                items = []
            with self._changed:
                self._window.is_exhausted = not items
                for each in items:
                    self._window.read(each)
                self._changed.notify_all()


def answered_items(
    source: Iterable[RequestT | EvalFleetError],
    exchange: Callable[[Iterator[Sent[RequestT]]], Generator[MessageT]],
    *,
    error_of: Callable[[MessageT], EvalFleetError | None],
    patience_seconds: float,
    in_order: bool = False,
    window: int = WINDOW_ITEMS,
) -> Iterator[tuple[int, MessageT | EvalFleetError]]:
    """Yield (number, outcome) of every item, once each; of one that cannot be sent, its error.

    Args:
        source: the items, or what is wrong with them; read as fast as the service takes them.
        exchange: opens a stream for items.
        error_of: the error that an outcome holds.
        patience_seconds: longest time that the service may be away while items wait for their outcome.
        in_order: in the order of the items; otherwise as they are answered.
        window: most items that are read and not told.

    Raises:
        EvalFleetError: what the service answered to the stream; after ``patience_seconds`` without an outcome,
            UnavailableError, or STREAM_ENDED if its streams end as if nothing were missing.
        Exception: what ``source`` raised, once all that it had given is told.
    """
    held: Window[RequestT, MessageT] = Window(window, in_order=in_order, error_of=error_of)
    feed = _Feed(source, held)
    patience = Patience(patience_seconds)
    try:
        while True:
            yield from feed.first()
            if held.is_done:
                break
            problem: EvalFleetError = stream_ended()
            try:
                with closing(exchange(feed.stream())) as messages:
                    for message in messages:
                        patience.heard()
                        yield from feed.take(message)
            except EvalFleetError as error:
                if not may_reopen(error):
                    raise
                problem = error
            yield from feed.take(None)
            if held.open_count:
                pause = patience.pause_after(problem)
                if pause is None:
                    raise problem
                time.sleep(pause)
        if feed.failure is not None:
            raise feed.failure
    finally:
        feed.end()


def answered_batches(
    source: Iterable[RequestT | EvalFleetError],
    ask: Callable[[list[RequestT]], Sequence[ResultT]],
    *,
    largest: int,
) -> list[ResultT | EvalFleetError]:
    """Return one result a request, in their order; one that cannot be sent has its error.

    A batch that is too large for the service, or has too large an answer, is asked in halves.

    Args:
        source: the requests, or why there is none.
        ask: sends up to ``largest`` of them, which fit into a message.
        largest: most requests of a batch.

    Raises:
        EvalFleetError: what a batch ended with; WRONG_RESULT_COUNT: nobody knows which result is whose.
    """
    outcomes: list[ResultT | EvalFleetError] = []
    for some in batches_of(source, largest):
        sent = [each for each in some if not isinstance(each, EvalFleetError)]
        outcomes += in_place(some, _asked(sent, ask) if sent else ())
    return outcomes


def _asked(
    requests: list[RequestT], ask: Callable[[list[RequestT]], Sequence[ResultT]]
) -> list[ResultT | EvalFleetError]:
    try:
        return in_place(requests, ask(requests))
    except EvalFleetError as error:
        if not is_too_large(error):
            raise
        if len(requests) == 1:
            return [too_large_alone(error)]
    middle = len(requests) // 2
    return [*_asked(requests[:middle], ask), *_asked(requests[middle:], ask)]


def batches_of(source: Iterable[RequestT | EvalFleetError], largest: int) -> Iterator[list[RequestT | EvalFleetError]]:
    """Yield up to ``largest`` requests, or why there is none, at a time: as many as fit into a message."""
    some: list[RequestT | EvalFleetError] = []
    total = 0
    for each in source:
        size = size_bytes(each)
        if some and (len(some) == largest or total + size > LARGEST_ITEM_BYTES):
            yield some
            some, total = [], 0
        some.append(each)
        total += size
    if some:
        yield some


def in_place(
    requests: Sequence[RequestT | EvalFleetError], results: Sequence[ResultT]
) -> list[ResultT | EvalFleetError]:
    """Return the results in the places of the requests that were sent, and the others' errors in theirs.

    Raises:
        EvalFleetError: WRONG_RESULT_COUNT: nobody knows which result is whose.
    """
    sent_count = sum(not isinstance(each, EvalFleetError) for each in requests)
    if len(results) != sent_count:
        raise EvalFleetError(
            f"the service gave {len(results)} results for {sent_count} requests", reason="WRONG_RESULT_COUNT"
        )
    answers = iter(results)
    return [each if isinstance(each, EvalFleetError) else next(answers) for each in requests]
