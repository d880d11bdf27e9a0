"""Gathers what many items ask for in the same moment into one call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.runtime.calls import leave_item
from services.runtime.pacing import Pacer
from services.runtime.telemetry.spans import carried_traces, sharing_traces

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Asked(Generic[RequestT, ResultT]):
    """A request that waits for its result, and the traces that it belongs to."""

    request: RequestT
    future: asyncio.Future[ResultT]
    traces: tuple[str, ...]


class Gatherer(Generic[RequestT, ResultT]):
    """Sends requests together: those that came since the last call was sent, up to ``largest`` of them.

    Nobody waits for company unless a pacer says so: a request that is alone is sent at once. What comes while a call is
    being answered is gathered, and sent with the next one; at most ``concurrency`` calls are under way.

    Args:
        call: answers requests, one result each in their order; what it raises is raised to all of them.
        largest: most requests of one call.
        concurrency: calls at once.
        pacer: says how long to wait for company.
        size: of a request; ``None``: their number alone bounds a call.
        largest_size: of all requests of a call together; one that is larger has a call to itself.
    """

    def __init__(
        self,
        call: Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT]]],
        *,
        largest: int,
        concurrency: int = 2,
        pacer: Pacer | None = None,
        size: Callable[[RequestT], int] | None = None,
        largest_size: int = 0,
    ) -> None:
        self._call = call
        self._size = size
        self._largest_size = largest_size
        self._pacer = pacer
        self._held: asyncio.TimerHandle | None = None
        self._largest = largest
        self._concurrency = concurrency
        self._waiting: list[_Asked[RequestT, ResultT]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, requests: Sequence[RequestT]) -> list[ResultT]:
        """Return one result a request, in their order.

        Raises:
            Exception: what the call raised.
        """
        loop = asyncio.get_running_loop()
        traces = carried_traces()
        asked = [_Asked(request, loop.create_future(), traces) for request in requests]
        self._waiting += asked
        self._send()
        try:
            return [await each.future for each in asked]
        finally:
            for each in asked:
                each.future.cancel()

    async def close(self) -> None:
        """Give up the calls under way and those still to come; who waits for them is cancelled."""
        if self._held is not None:
            self._held.cancel()
        for each in self._waiting:
            each.future.cancel()
        self._waiting = []
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _send(self) -> None:
        while self._waiting and len(self._calls) < self._concurrency:
            if self._waits_for_company():
                return
            task = asyncio.create_task(self._send_one())
            self._calls.add(task)
            task.add_done_callback(self._sent)

    def _waits_for_company(self) -> bool:
        """Whether to send later; a timer then sends."""
        if self._held is not None:
            if len(self._waiting) < self._largest:
                return True
            self._held.cancel()
            self._held = None
        if self._pacer is None or len(self._waiting) >= self._largest:
            return False
        delay = self._pacer.delay_seconds()
        if delay == 0:
            return False
        self._held = asyncio.get_running_loop().call_later(delay, self._release)
        return True

    def _release(self) -> None:
        self._held = None
        self._send()

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._send()

    def _fitting(self, requests: Sequence[RequestT]) -> int:
        """Return how many of them, from the first on, go into one call."""
        if self._size is None:
            return len(requests)
        total = 0
        for count, request in enumerate(requests):
            total += self._size(request)
            if count and total > self._largest_size:
                return count
        return len(requests)

    async def _send_one(self) -> None:
        # The task was begun by one of those who ask, but works for all of them.
        leave_item()
        wanted = [each for each in self._waiting if not each.future.done()]
        count = self._fitting([each.request for each in wanted[: self._largest]])
        some, self._waiting = wanted[:count], wanted[count:]
        if not some:
            return
        if self._pacer is not None:
            self._pacer.sent(len(some))
        try:
            with sharing_traces(dict.fromkeys(trace for each in some for trace in each.traces)):
                results = await self._call([each.request for each in some])
            for each, result in zip(some, results, strict=True):
                if not each.future.done():
                    each.future.set_result(result)
        except Exception as error:  # noqa: BLE001 - it is everybody's who asked
            for each in some:
                if not each.future.done():
                    each.future.set_exception(error)
        finally:
            for each in some:
                each.future.cancel()
