"""Many requests: in batches, or over streams that survive a service that restarts; what cannot be sent fails alone."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from evalfleet.errors import CancelledCallError, EvalFleetError, UnavailableError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class OutcomeMessage(Protocol):
    """An answer of a bulk stream."""

    @property
    def item_id(self) -> str:
        """Id of the item."""
        ...


OutcomeT = TypeVar("OutcomeT", bound=OutcomeMessage)

_PAUSE_SECONDS = 0.5


class _Items(Generic[RequestT]):
    """The caller's items, numbered; remembers those that have no outcome yet."""

    def __init__(self, source: Iterable[RequestT]) -> None:
        self._source = enumerate(source)
        self._open: dict[int, RequestT] = {}
        self._lock = threading.Lock()
        self._attempt = 0
        self._is_exhausted = False
        self.failure: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self._is_exhausted and not self._open

    def close(self, number: int) -> bool:
        """Note an outcome; false if the item already had one."""
        return self._open.pop(number, None) is not None

    def stream(self) -> Iterator[tuple[int, RequestT]]:
        """Yield what has no outcome, then what is new; a later call ends the earlier ones.

        gRPC iterates in a thread of its own, which may outlive its call.
        """
        with self._lock:
            self._attempt += 1
            mine, again = self._attempt, list(self._open.items())
        yield from again
        while True:
            with self._lock:
                if mine != self._attempt or self._is_exhausted:
                    return
                try:
                    entry = next(self._source, None)
                except Exception as error:
                    # gRPC would swallow it in its own thread: kept for the caller's.
                    self.failure = error
                    raise
                if entry is None:
                    self._is_exhausted = True
                    return
                self._open[entry[0]] = entry[1]
            yield entry


def answered_items(
    source: Iterable[RequestT],
    exchange: Callable[[Iterator[tuple[int, RequestT]]], Iterator[OutcomeT]],
    *,
    patience_seconds: float,
) -> Iterator[tuple[int, OutcomeT]]:
    """Yield (number, outcome) of every item, once each, in the order in which they are answered.

    Args:
        source: the items; read as fast as the service takes them.
        exchange: opens a stream for numbered items.
        patience_seconds: longest time that the service may be away.

    Raises:
        EvalFleetError: what the service answered to the stream; after ``patience_seconds`` without an outcome,
            UnavailableError, or STREAM_ENDED if its streams end as if nothing were missing.
        Exception: what ``source`` raised.
    """
    items = _Items(source)
    silent_since: float | None = None
    while True:
        try:
            for outcome in exchange(items.stream()):
                silent_since = None
                number = int(outcome.item_id)
                if items.close(number):
                    yield number, outcome
            if items.is_done:
                return
            if silent_since and time.monotonic() - silent_since > patience_seconds and items.failure is None:
                raise EvalFleetError("the service ends its streams without answering all items", reason="STREAM_ENDED")
        except (UnavailableError, CancelledCallError):
            # Its replica is going away, or the connection was too old.
            if items.failure is None and silent_since and time.monotonic() - silent_since > patience_seconds:
                raise
        finally:
            if items.failure is not None:
                raise items.failure
        silent_since = silent_since or time.monotonic()
        time.sleep(_PAUSE_SECONDS)


def answered_sendable_items(
    source: Iterable[RequestT | EvalFleetError],
    exchange: Callable[[Iterator[tuple[int, RequestT]]], Iterator[OutcomeT]],
    *,
    patience_seconds: float,
) -> Iterator[tuple[int, OutcomeT | EvalFleetError]]:
    """Yield what ``answered_items`` does, and in between the items that cannot be sent, with their errors."""
    unsendable: deque[tuple[int, EvalFleetError]] = deque()
    numbers: dict[int, int] = {}

    def sendable() -> Iterator[RequestT]:
        sent = 0
        for number, each in enumerate(source):
            if isinstance(each, EvalFleetError):
                unsendable.append((number, each))
                continue
            numbers[sent] = number
            sent += 1
            yield each

    for sent, outcome in answered_items(sendable(), exchange, patience_seconds=patience_seconds):
        while unsendable:
            yield unsendable.popleft()
        yield numbers.pop(sent), outcome
    yield from unsendable


def answered_batches(
    source: Iterable[RequestT | EvalFleetError],
    ask: Callable[[list[RequestT]], Sequence[ResultT]],
    *,
    largest: int,
) -> list[ResultT | EvalFleetError]:
    """Return one result a request, in their order; one that cannot be sent has its error.

    Args:
        source: the requests, or why there is none.
        ask: sends up to ``largest`` of them.
        largest: most requests of a batch.

    Raises:
        EvalFleetError: what a batch ended with; WRONG_RESULT_COUNT: nobody knows which result is whose.
    """
    outcomes: list[ResultT | EvalFleetError] = []
    requests = iter(source)
    while some := list(itertools.islice(requests, largest)):
        sent = [each for each in some if not isinstance(each, EvalFleetError)]
        results = ask(sent) if sent else ()
        if len(results) != len(sent):
            raise EvalFleetError(
                f"the service gave {len(results)} results for {len(sent)} requests", reason="WRONG_RESULT_COUNT"
            )
        answers = iter(results)
        outcomes += [each if isinstance(each, EvalFleetError) else next(answers) for each in some]
    return outcomes
