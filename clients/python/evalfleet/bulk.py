"""Many requests over streams that survive a service that restarts; what cannot be sent fails alone."""

from __future__ import annotations  # grpc's callables are generic in its type stubs alone

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Generic, Protocol, TypeVar

import grpc

from evalfleet.connections import Connection, Exchange
from evalfleet.errors import EvalFleetError
from evalfleet.silence import ended_if_silent
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

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")
IdT = TypeVar("IdT")
AskedT = TypeVar("AskedT")
MessageT = TypeVar("MessageT")
ToldT = TypeVar("ToldT", covariant=True)


class OpenStream(Protocol[ToldT]):
    """A stream that carries items; see ``evalfleet.connections.Exchange``."""

    def answers(self) -> Generator[ToldT]:
        """Yield what the service says of them."""

    def said_at_first(self, key: str) -> str:
        """Return an entry of the service's initial metadata."""

    def close(self) -> None:
        """End it, from any thread."""


class _Feed(Generic[RequestT, OutcomeT]):
    """Reads the caller's items for the streams that carry them, one stream at a time.

    They are read in a thread of its own, since a source may wait for the outcomes of what it gave before. gRPC takes
    what is to be sent in another, which may outlive its call.

    Attributes:
        takes_groups: whether the service reads messages of several items.
        failure: what the source raised.
    """

    def __init__(self, source: Iterable[RequestT | EvalFleetError], window: Window[RequestT, OutcomeT]) -> None:
        self._source = source
        self._window = window
        self._changed = threading.Condition()
        self._stream_number = 0
        self._has_ended = False
        self.takes_groups = False
        self.failure: Exception | None = None
        threading.Thread(target=self._read, name="items of a bulk call", daemon=True).start()

    def stream(self) -> Iterator[list[Sent[RequestT]]]:
        """Return what is to be sent, a message at a time, until nothing more can come; ends earlier ones."""
        with self._changed:
            self._stream_number += 1
            self.takes_groups = False
            self._window.begin_stream()
            self._changed.notify_all()
            return self._messages_of(self._stream_number)

    def first(self) -> Iterator[tuple[int, OutcomeT | EvalFleetError]]:
        """Wait until there is something to send, or nothing more; yield what is told of what cannot be sent."""
        with self._changed:
            self._stream_number += 1
        can_go_on = False
        while not can_go_on:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._window.open_count or self._window.is_exhausted or self._window.is_idle
                )
                can_go_on = self._window.open_count > 0 or self._window.is_exhausted
            yield from self.take(())

    def take(self, outcomes: Iterable[OutcomeT]) -> list[tuple[int, OutcomeT | EvalFleetError]]:
        """Note outcomes, and return those that are to be told now."""
        with self._changed:
            for each in outcomes:
                self._window.outcome(each)
            told = list(self._window.told())
            self._changed.notify_all()
        return told

    def end(self) -> None:
        """Let all threads go."""
        with self._changed:
            self._has_ended = True
            self._stream_number += 1
            self._changed.notify_all()

    def _messages_of(self, stream_number: int) -> Iterator[list[Sent[RequestT]]]:
        while True:
            with self._changed:
                while True:
                    if stream_number != self._stream_number or self._window.is_all_sent:
                        return
                    group = self._window.next_to_send(LARGEST_GROUP if self.takes_groups else 1)
                    if group:
                        break
                    self._changed.wait(self._window.next_due_seconds())
            yield group

    def _read(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    self._window.read(item)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._has_ended or self._window.has_room)
                    if self._has_ended:
                        return
        except Exception as error:  # noqa: BLE001 - in this thread it would be lost: kept for the caller's
            self.failure = error
        finally:
            with self._changed:
                self._window.is_exhausted = True
                self._changed.notify_all()


def item_streams(
    connection: Connection,
    method: grpc.StreamStreamMultiCallable[AskedT, MessageT],
    message: Callable[[Sequence[Sent[RequestT]]], AskedT],
) -> Callable[[Iterator[list[Sent[RequestT]]]], Exchange[MessageT]]:
    """Return what opens a stream for items.

    Args:
        connection: to the service.
        method: of its stub.
        message: makes a message of one item, or of several where the service reads such.
    """

    def open_stream(groups: Iterator[list[Sent[RequestT]]]) -> Exchange[MessageT]:
        return connection.open_exchange(
            method, (message(each) for each in groups), timeout_seconds=LONGEST_STREAM_SECONDS
        )

    return open_stream


def answered_items(
    source: Iterable[RequestT | EvalFleetError],
    open_stream: Callable[[Iterator[list[Sent[RequestT]]]], OpenStream[MessageT]],
    *,
    outcomes_in: Callable[[MessageT], Iterable[OutcomeT]],
    error_of: Callable[[OutcomeT], EvalFleetError | None],
    patience_seconds: float,
    silence_seconds: float,
    in_order: bool = False,
    window: int = WINDOW_ITEMS,
) -> Iterator[tuple[int, OutcomeT | EvalFleetError]]:
    """Yield (number, outcome) of every item, once each; of one that cannot be sent, its error.

    Args:
        source: the items, or what is wrong with them; read as fast as the service takes them.
        open_stream: opens a stream for items, given as what one message carries at a time.
        outcomes_in: the outcomes in one of its messages.
        error_of: the error that an outcome holds.
        patience_seconds: longest time that the service may be away while items wait for their outcome.
        silence_seconds: longest time without an outcome before a stream is taken to be dead and replaced.
        in_order: in the order of the items; otherwise as they are answered.
        window: most items that are read and not told.

    Raises:
        EvalFleetError: what the service answered to the stream; after ``patience_seconds`` without an outcome,
            UnavailableError, STREAM_SILENT if it is there and answers nothing, or STREAM_ENDED if its streams end as if
            nothing were missing.
        Exception: what ``source`` raised, once all that it had given is told.
    """
    held: Window[RequestT, OutcomeT] = Window(window, in_order=in_order, error_of=error_of)
    feed = _Feed(source, held)
    patience = Patience(patience_seconds)
    try:
        while True:
            yield from feed.first()
            if held.is_done:
                break
            silence = Silence(held, silence_seconds)
            problem: EvalFleetError = stream_ended()
            try:
                with closing(open_stream(feed.stream())) as stream, ended_if_silent(silence, stream.close):
                    feed.takes_groups = stream.said_at_first(GROUPS_KEY) == "1"
                    with closing(stream.answers()) as messages:
                        for message in messages:
                            silence.listen(False)
                            patience.heard()
                            yield from feed.take(outcomes_in(message))
                            silence.listen(True)
            except EvalFleetError as error:
                problem = silence.error() if silence.was_too_long else error
                if not may_reopen(problem):
                    raise
            yield from feed.take(())
            if held.open_count and not held.is_stream_old:
                pause = patience.pause_after(problem)
                if pause is None:
                    raise problem
                time.sleep(pause)
        if feed.failure is not None:
            raise feed.failure
    finally:
        feed.end()


def by_id(
    ask: Callable[[Iterator[ItemT]], Iterable[tuple[int, ResultT]]], items: Iterable[tuple[IdT, ItemT]]
) -> Iterator[tuple[IdT, ResultT]]:
    """Yield (id, outcome) of items that bring their own ids, of any kind; what holds for ``ask`` holds here.

        by_id(fleet.safety.classify_many, ((row["id"], [("user", row["text"])]) for row in rows))
        by_id(partial(fleet.scoring.score_many, scorer="exact_match"), outputs)

    Args:
        ask: a bulk method, with its options.
        items: (id, item); the same id may come twice.
    """
    ids: dict[int, IdT] = {}

    def noted() -> Iterator[ItemT]:
        for number, (item_id, item) in enumerate(items):
            ids[number] = item_id
            yield item

    for number, outcome in ask(noted()):
        yield ids.pop(number), outcome
