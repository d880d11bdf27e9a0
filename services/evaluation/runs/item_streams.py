"""Asks for many items over a few bidirectional streams, at a fraction of what a call each costs."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc.aio
from google.rpc import status_pb2

from services.runtime.calls import current_scope, outside_item
from services.runtime.errors import (
    DeadlineExceededError,
    FleetError,
    UnavailableError,
    from_rpc_error,
    from_status,
)
from services.runtime.expiries import Expiries
from services.runtime.pacing import Pacer

_ITEMS_A_STREAM: Final = 16
"""So many items go to a stream before another is opened, and so many that are asked together, to be sent together."""
_MOST_STREAMS: Final = 8
"""Of one run: a stream stays at one replica of the peer, so a run with many items in flight opens several."""
_MOST_ITEMS: Final = 8192
"""Of one stream, in all: the peer remembers their ids as long as it lasts."""
_LONGEST_SECONDS: Final = 240.0
"""A stream takes items for so long, then another does, which may go to a new replica: four fifths of the age at which
the peer renews connections."""
_LARGEST_STREAMED_BYTES: Final = 256 * 1024
"""A message that the peer refuses for its size would end the stream, and with it everybody else's items."""
_LONGEST_ID: Final = 256
_IDLE_SECONDS: Final = 1.0
_PACE_SECONDS: Final = 0.02
_LARGEST_GROUP: Final = 64
_LARGEST_GROUP_BYTES: Final = 1024 * 1024
_GROUPS_KEY: Final = "evalfleet-item-groups"
"""Initial metadata by which a peer says that it reads messages of several items; one that is older does not."""


class Request(Protocol):
    """A protobuf message."""

    def ByteSize(self) -> int:
        """Return how long it is when serialized."""


class Outcome(Protocol):
    """What the peer says of one item."""

    item_id: str
    status: status_pb2.Status

    @property
    def response(self) -> Any:
        """The item's response, if it has one."""

    def HasField(self, field_name: Any) -> bool:
        """Return whether a field is set."""


class Outcomes(Outcome, Protocol):
    """What the peer says of one item and perhaps of more."""

    @property
    def more(self) -> Iterable[Outcome]:
        """What it says of other items."""


RequestT = TypeVar("RequestT", bound=Request)
ResponseT = TypeVar("ResponseT")
OpenStream = Callable[[AsyncIterator[Any]], Any]
ItemsMessage = Callable[[Sequence[tuple[str, RequestT]]], Any]
"""Makes a message of the stream from one item or several, each an id and a request."""


class ItemStreams(Generic[RequestT, ResponseT]):
    """Answers one item at a time, over the streams of the run that asks.

    An item that is cancelled or takes too long goes on at the peer as long as others wait on its stream; when nobody
    does and such an item has no outcome yet, the stream is cancelled, and its work with it.

    Args:
        open_stream: starts a stream of the peer's bulk method.
        message: makes the stream's messages.
        call: asks for one item by itself, for requests too large to share a stream.
        timeout_seconds: longest time of one item.
        most_streams: of one run.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        message: ItemsMessage[RequestT],
        call: Callable[[RequestT], Awaitable[ResponseT]],
        *,
        timeout_seconds: float,
        most_streams: int = _MOST_STREAMS,
    ) -> None:
        self._open_stream = open_stream
        self._most_streams = most_streams
        self._message = message
        self._call = call
        self._timeout_seconds = timeout_seconds
        self._streams: dict[str | None, list[_Stream]] = {}
        self._expiries: Expiries[asyncio.Future[Any]] = Expiries(_give_up)

    async def ask(self, request: RequestT) -> ResponseT:
        """Return the response to one item.

        Raises:
            FleetError: the item's status, or that of its stream, which ended before.
        """
        size = request.ByteSize()
        if size > _LARGEST_STREAMED_BYTES:
            return await self._call(request)
        answer: asyncio.Future[ResponseT] = asyncio.get_running_loop().create_future()
        self._expiries.watch(answer, time.monotonic() + self._timeout_seconds)
        try:
            response: ResponseT = await self._stream(current_scope().ids.run_id).ask(request, size, answer)
            return response
        except TimeoutError:
            raise DeadlineExceededError(
                f"no answer within {self._timeout_seconds:g} s", reason="PEER_DEADLINE_EXCEEDED"
            ) from None
        finally:
            self._expiries.forget(answer)

    def _stream(self, run_id: str | None) -> "_Stream":
        streams = self._streams.setdefault(run_id, [])
        for stream in streams:
            # A message costs more than what is in it: what is asked together goes together.
            if stream.has_company:
                return stream
        emptiest = min(streams, key=len, default=None)
        if emptiest is not None and (len(emptiest) < _ITEMS_A_STREAM or len(streams) >= self._most_streams):
            return emptiest
        stream = _Stream(self._open_stream, self._message, lambda ended: self._forget(run_id, ended))
        streams.append(stream)
        return stream

    def _forget(self, run_id: str | None, stream: "_Stream") -> None:
        streams = self._streams.get(run_id, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self._streams.pop(run_id, None)


class _Stream:
    """One stream and the items that wait for it.

    Args:
        open_stream: starts it.
        message: makes its messages.
        on_end: told, perhaps more than once, when no further item may be asked here.
    """

    def __init__(
        self, open_stream: OpenStream, message: ItemsMessage[Any], on_end: Callable[["_Stream"], None]
    ) -> None:
        self._message = message
        self._on_end = on_end
        self._takes_groups = False
        self._unsent = 0
        self._is_gathering = True
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._abandoned: set[str] = set()
        self._pacer = Pacer(_PACE_SECONDS)
        self._outbox: asyncio.Queue[tuple[str, Any, int] | None] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._idle: asyncio.TimerHandle | None = None
        # By one item, for many.
        with outside_item():
            self._call = open_stream(self._messages())
            self._reader = asyncio.create_task(self._read(), name="item stream")
            self._age = asyncio.get_running_loop().call_later(_LONGEST_SECONDS, on_end, self)

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._waiting)

    @property
    def has_company(self) -> bool:
        """Whether items are about to be sent, and what is asked now can go with them."""
        return self._is_gathering and 0 < self._unsent < _ITEMS_A_STREAM

    async def ask(self, request: Any, size: int, answer: "asyncio.Future[Any]") -> Any:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        number = next(self._numbers)
        if number >= _MOST_ITEMS:
            self._on_end(self)
        item_id = str(number)
        if named := current_scope().ids.item_id:
            # Only of items that are traced: so that the peer's spans and log lines name them.
            item_id = f"{item_id}/{named}"[:_LONGEST_ID]
        self._waiting[item_id] = answer
        self._outbox.put_nowait((item_id, request, size))
        self._unsent += 1
        try:
            return await answer
        finally:
            self._waiting.pop(item_id, None)
            if _is_given_up(answer):
                self._abandoned.add(item_id)
            if not self._waiting:
                self._rest()

    def _rest(self) -> None:
        """Nobody waits: stop the peer's work if it has any left, or close the stream if nobody comes soon."""
        if self._abandoned:
            self._on_end(self)
            self._call.cancel()
        elif self._idle is None:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._close)

    def _close(self) -> None:
        self._on_end(self)
        self._outbox.put_nowait(None)

    async def _messages(self) -> AsyncIterator[Any]:
        is_open = True
        while is_open:
            self._is_gathering = True
            group, is_open = await self._next_group()
            self._is_gathering = False
            self._unsent -= len(group)
            if group:
                yield self._message(group)

    async def _next_group(self) -> tuple[list[tuple[str, Any]], bool]:
        """Return what is to be sent next, all that waits if the peer reads such, and whether more may follow."""
        group: list[tuple[str, Any]] = []
        total = 0
        item = await self._outbox.get()
        if self._takes_groups and (delay := self._pacer.delay_seconds()) > 0:
            await asyncio.sleep(delay)
        while item is not None:
            item_id, request, size = item
            group.append((item_id, request))
            total += size
            is_full = len(group) >= _LARGEST_GROUP or total >= _LARGEST_GROUP_BYTES
            if is_full or not self._takes_groups or self._outbox.empty():
                self._pacer.sent(len(group))
                return group, True
            item = self._outbox.get_nowait()
        return group, False

    async def _read(self) -> None:
        error: FleetError = UnavailableError("the stream of items ended early", reason="ITEM_STREAM_ENDED")
        try:
            told = await self._call.initial_metadata() or ()
            self._takes_groups = any(key == _GROUPS_KEY and value == "1" for key, value in told)
            async for outcomes in self._call:
                self._deliver(outcomes)
                for outcome in outcomes.more:
                    self._deliver(outcome)
        except grpc.aio.AioRpcError as broken:
            # Nobody here cancelled it: its replica is going away, or its connection was too old.
            if broken.code() is not grpc.StatusCode.CANCELLED:
                error = from_rpc_error(broken)
        finally:
            self._age.cancel()
            self._on_end(self)
            self._fail(self._waiting.values(), error)

    def _deliver(self, outcome: Outcome) -> None:
        self._abandoned.discard(outcome.item_id)
        future = self._waiting.get(outcome.item_id)
        if future is None or future.done():
            return
        if outcome.HasField("status"):
            future.set_exception(from_status(outcome.status))
        else:
            future.set_result(outcome.response)

    def _fail(self, futures: Iterable["asyncio.Future[Any]"], error: FleetError) -> None:
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _give_up(answer: "asyncio.Future[Any]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _is_given_up(answer: "asyncio.Future[Any]") -> bool:
    """Whether the answer is not waited for any more, although it may still come."""
    return answer.cancelled() or (answer.done() and isinstance(answer.exception(), TimeoutError))
