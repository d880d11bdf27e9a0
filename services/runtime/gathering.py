"""Gathers what many items ask for in the same moment into one call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class Gatherer(Generic[RequestT, ResultT]):
    """Sends requests together: those that came since the last call was sent, up to ``largest`` of them.

    Nobody waits for company: a request that is alone is sent at once. What comes while a call is being answered is
    gathered, and sent with the next one; at most ``concurrency`` calls are under way.

    Args:
        call: answers requests, one result each in their order; what it raises is raised to all of them.
        largest: most requests of one call.
        concurrency: calls at once.
    """

    def __init__(
        self,
        call: Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT]]],
        *,
        largest: int,
        concurrency: int = 2,
    ) -> None:
        self._call = call
        self._largest = largest
        self._concurrency = concurrency
        self._waiting: list[tuple[RequestT, asyncio.Future[ResultT]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, requests: Sequence[RequestT]) -> list[ResultT]:
        """Return one result a request, in their order.

        Raises:
            Exception: what the call raised.
        """
        loop = asyncio.get_running_loop()
        asked = [(request, loop.create_future()) for request in requests]
        self._waiting += asked
        self._send()
        try:
            return [await future for _, future in asked]
        finally:
            for _, future in asked:
                future.cancel()

    async def close(self) -> None:
        """Give up the calls under way and those still to come; who waits for them is cancelled."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting = []
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _send(self) -> None:
        while self._waiting and len(self._calls) < self._concurrency:
            task = asyncio.create_task(self._send_one())
            self._calls.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._send()

    async def _send_one(self) -> None:
        wanted = [(request, future) for request, future in self._waiting if not future.done()]
        some, self._waiting = wanted[: self._largest], wanted[self._largest :]
        if not some:
            return
        try:
            results = await self._call([request for request, _ in some])
            for (_, future), result in zip(some, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:  # noqa: BLE001 - it is everybody's who asked
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in some:
                future.cancel()
