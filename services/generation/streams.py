"""Bulk streams: many items in, one outcome each out, in whatever order they are ready."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.generation.time_limits import item_seconds
from services.runtime.calls import bind_ids
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import CancelledCallError, FieldViolation, InvalidArgumentError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

LONGEST_ITEM_ID: Final = 256
REMEMBERED_ITEM_IDS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Item(Generic[RequestT]):
    """One item as it was read: its id, and its request or what is wrong with it."""

    item_id: str
    request: RequestT | Exception


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """What became of one item: its result, or why there is none."""

    item_id: str
    result: ResultT | BaseException


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds on one stream.

    Attributes:
        in_flight: items that are read and whose outcome is not yet sent.
        item_seconds: longest time of one item.
    """

    in_flight: int
    item_seconds: float


class ItemStream(Generic[RequestT, ResultT]):
    """Answers the items of one stream.

    No more than ``in_flight`` items are held: while that many are, nothing is read, so that the transport holds back
    whoever sends. An item counts until its outcome was taken, so a caller that does not read is not read from either.

    Args:
        items: the caller's items; ends when the caller has no more.
        work: answers one request; what it raises is that item's outcome.
        limits: bounds on the stream.
    """

    def __init__(
        self,
        items: AsyncIterator[Item[RequestT]],
        work: Callable[[RequestT], Awaitable[ResultT]],
        limits: StreamLimits,
    ) -> None:
        self._items = items
        self._work = work
        self._limits = limits
        self._room = asyncio.Semaphore(limits.in_flight)
        self._ids = _SeenIds()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Queue[Outcome[ResultT] | None] = asyncio.Queue()
        self._held = 0

    async def outcomes(self) -> AsyncGenerator[Outcome[ResultT], None]:
        """Yield one outcome for every item; closing it cancels all work.

        Raises:
            Exception: what reading the items raised, if it broke off.
        """
        reader = asyncio.create_task(self._read_all(), name="stream items")
        try:
            is_drained = False
            while not is_drained or self._held:
                outcome = await self._ready.get()
                if outcome is None:
                    await reader
                    is_drained = True
                    continue
                yield outcome
                self._held -= 1
                self._room.release()
        finally:
            tasks = [reader, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self) -> None:
        try:
            while True:
                await self._room.acquire()
                item = await anext(self._items, None)
                if item is None:
                    return
                self._held += 1
                self._begin(item)
        finally:
            self._ready.put_nowait(None)

    def _begin(self, item: Item[RequestT]) -> None:
        problem = self._ids.problem_of(item.item_id)
        error = item.request if isinstance(item.request, Exception) else problem
        if problem is None:
            self._ids.open(item.item_id)
        if error is not None:
            self._end(item.item_id, error, was_opened=problem is None)
            return
        task = asyncio.create_task(self._answer(item), name="stream item")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, item: Item[RequestT]) -> None:
        result: ResultT | BaseException
        assert not isinstance(item.request, Exception)
        seconds = item_seconds(self._limits.item_seconds)
        try:
            with bind_deadline(seconds), bind_ids(item_id=item.item_id):
                async with asyncio.timeout(seconds):
                    result = await self._work(item.request)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Something below was cancelled, not this item: it still has to have an outcome.
            result = CancelledCallError("the work on this item was cancelled", reason="ITEM_CANCELLED")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome of this item alone
            result = error
        self._end(item.item_id, result, was_opened=True)

    def _end(self, item_id: str, result: ResultT | BaseException, *, was_opened: bool) -> None:
        if was_opened:
            self._ids.close(item_id)
        self._ready.put_nowait(Outcome(item_id, result))


class _SeenIds:
    """The ids in flight, and the most recent ones of those that are done."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._done: set[str] = set()
        self._order: deque[str] = deque()

    def problem_of(self, item_id: str) -> InvalidArgumentError | None:
        if not 1 <= len(item_id) <= LONGEST_ITEM_ID:
            text = f"must have 1 to {LONGEST_ITEM_ID} characters"
            return _item_id_error(text, "ITEM_ID_INVALID")
        if item_id in self._open or item_id in self._done:
            return _item_id_error("was used by an earlier item of this stream", "ITEM_ID_REUSED")
        return None

    def open(self, item_id: str) -> None:
        self._open.add(item_id)

    def close(self, item_id: str) -> None:
        self._open.discard(item_id)
        self._done.add(item_id)
        self._order.append(item_id)
        if len(self._order) > REMEMBERED_ITEM_IDS:
            self._done.discard(self._order.popleft())


def _item_id_error(text: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"item_id {text}", reason=reason, field_violations=(FieldViolation("item_id", text),))
