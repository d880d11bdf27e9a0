"""Bulk streams: many items in, one outcome each out, in whatever order they are ready."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from services.runtime.calls import current_scope, enter_item
from services.runtime.errors import CancelledCallError, FieldViolation, InvalidArgumentError
from services.runtime.expiries import Expiries
from services.runtime.telemetry.spans import span
from services.runtime.time_limits import item_seconds
from services.runtime.trace_context import is_sampled

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

LONGEST_ITEM_ID: Final = 256
REMEMBERED_ITEM_IDS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Item(Generic[RequestT]):
    """One item as it was read.

    Attributes:
        item_id: as the caller named it.
        request: what is asked, or what is wrong with it.
        traceparent: its own place in a trace; empty: it belongs to its stream's.
        is_named_here: the id must be a new one, and is used up by this item. False where whoever reads the items
            looks after this id, because several of them share it.
    """

    item_id: str
    request: RequestT | Exception
    is_named_here: bool = True
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ResultT]):
    """What became of one item.

    Attributes:
        item_id: as the caller named it.
        result: the result, or why there is none.
        request: what was asked, as the item held it.
    """

    item_id: str
    result: ResultT | BaseException
    request: object = None


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
        ids: the ids used in this stream; for whoever reads the items and uses up some ids itself.
        name: of the spans of items that are traced.
    """

    def __init__(
        self,
        items: AsyncIterator[Item[RequestT]],
        work: Callable[[RequestT], Awaitable[ResultT]],
        limits: StreamLimits,
        ids: "ItemIds | None" = None,
        *,
        name: str = "item",
    ) -> None:
        self._name = name
        self._items = items
        self._work = work
        self._limits = limits
        self._room = asyncio.Semaphore(limits.in_flight)
        self._ids = ids or ItemIds()
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        # Without a way back to the stream: nobody should have to look for such cycles.
        self._expiries: Expiries[asyncio.Task[None]] = Expiries(partial(_end_late, self._late))
        self._ready: asyncio.Queue[Outcome[ResultT] | None] = asyncio.Queue()
        self._held = 0

    async def outcomes(self) -> AsyncGenerator[Outcome[ResultT], None]:
        """Yield one outcome for every item; closing it cancels all work.

        Raises:
            Exception: what reading the items raised, if it broke off.
        """
        async with aclosing(self.groups(largest=1)) as groups:
            async for [outcome] in groups:
                yield outcome

    async def groups(
        self, *, largest: int, delay_seconds: Callable[[], float] | None = None
    ) -> AsyncGenerator[Sequence[Outcome[ResultT]], None]:
        """Yield the outcomes that are ready together, up to ``largest``; otherwise like ``outcomes``.

        Args:
            largest: most outcomes of a group.
            delay_seconds: says, whenever an outcome is ready and does not fill a group with others, how long it may
                wait for them.
        """
        reader = asyncio.create_task(self._read_all(), name="stream items")
        try:
            is_drained = False
            while not is_drained or self._held:
                group: list[Outcome[ResultT]] = []
                outcome = await self._ready.get()
                has_company = outcome is None or self._ready.qsize() + 1 >= largest
                if delay_seconds is not None and not has_company and (delay := delay_seconds()) > 0:
                    await asyncio.sleep(delay)
                while outcome is not None:
                    group.append(outcome)
                    if len(group) == largest or self._ready.empty():
                        break
                    outcome = self._ready.get_nowait()
                if group:
                    yield group
                    self._held -= len(group)
                    for _ in group:
                        self._room.release()
                if outcome is None:
                    await reader
                    is_drained = True
        finally:
            self._expiries.close()
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
        problem = self._ids.problem_of(item.item_id) if item.is_named_here else None
        error = item.request if isinstance(item.request, Exception) else problem
        is_opened = item.is_named_here and problem is None
        if is_opened:
            self._ids.open(item.item_id)
        if error is not None:
            self._end(item, error, was_opened=is_opened)
            return
        self._tasks.add(asyncio.create_task(self._answer(item), name="stream item"))

    async def _answer(self, item: Item[RequestT]) -> None:
        result: ResultT | BaseException
        assert not isinstance(item.request, Exception)
        task = asyncio.current_task()
        assert task is not None
        self._expiries.watch(task, enter_item(item.item_id, item_seconds(self._limits.item_seconds)))
        try:
            with span(self._name, "server", parent=item.traceparent, links=_linked(item)):
                result = await self._work(item.request)
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                result = TimeoutError()
            elif task.cancelling():
                raise
            else:
                # Something below was cancelled, not this item: it still has to have an outcome.
                result = CancelledCallError("the work on this item was cancelled", reason="ITEM_CANCELLED")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome of this item alone
            result = error
        self._expiries.forget(task)
        self._late.discard(task)
        self._tasks.discard(task)
        self._end(item, result, was_opened=item.is_named_here)

    def _end(self, item: Item[RequestT], result: ResultT | BaseException, *, was_opened: bool) -> None:
        if was_opened:
            self._ids.close(item.item_id)
        self._ready.put_nowait(Outcome(item.item_id, result, item.request))


def _linked(item: Item[RequestT]) -> tuple[str, ...]:
    """Return the place in a trace of the stream that carries an item of another trace."""
    carrier = current_scope().ids.traceparent if item.traceparent else None
    return (carrier,) if carrier and is_sampled(carrier) else ()


def _end_late(late: "set[asyncio.Task[None]]", task: "asyncio.Task[None]") -> None:
    late.add(task)
    task.cancel()


class ItemIds:
    """The ids in flight, and the most recent ones of those that are done."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._done: set[str] = set()
        self._order: deque[str] = deque()

    def problem_of(self, item_id: str) -> InvalidArgumentError | None:
        """Return why a new item cannot have this id; None if it can."""
        if not 1 <= len(item_id) <= LONGEST_ITEM_ID:
            text = f"must have 1 to {LONGEST_ITEM_ID} characters"
            return _item_id_error(text, "ITEM_ID_INVALID")
        if item_id in self._open or item_id in self._done:
            return _item_id_error("was used by an earlier item of this stream", "ITEM_ID_REUSED")
        return None

    def is_done(self, item_id: str) -> bool:
        """Return whether the id was used and its item has ended, not too long ago."""
        return item_id in self._done

    def open(self, item_id: str) -> None:
        """Note that an item of this id is in flight."""
        self._open.add(item_id)

    def close(self, item_id: str) -> None:
        """Note that the item of this id has ended."""
        self._open.discard(item_id)
        self._done.add(item_id)
        self._order.append(item_id)
        if len(self._order) > REMEMBERED_ITEM_IDS:
            self._done.discard(self._order.popleft())


def _item_id_error(text: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"item_id {text}", reason=reason, field_violations=(FieldViolation("item_id", text),))
