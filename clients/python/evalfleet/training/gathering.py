"""Questions of many coroutines, joined into few calls."""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class _Waiting(Generic[ItemT, ResultT]):
    """What the coroutines of one event loop have asked since the last batch, and the batches under way."""

    def __init__(self) -> None:
        self.items: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.batches: set[asyncio.Task[None]] = set()


class Gatherer(Generic[ItemT, ResultT]):
    """Joins what is asked within ``linger_seconds`` into batches, whoever asked; each is one call in a thread.

    Args:
        ask: gives one result an item, in their order; called in threads, several at once.
        largest: most items of a batch; so many are sent at once.
        linger_seconds: longest time that an item waits for others.
    """

    def __init__(self, ask: Callable[[list[ItemT]], Sequence[ResultT]], *, largest: int, linger_seconds: float) -> None:
        self._ask = ask
        self._largest = largest
        self._linger_seconds = linger_seconds
        # A trainer has an event loop of its own, and a process may have several trainers.
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting[ItemT, ResultT]] = (
            weakref.WeakKeyDictionary()
        )

    def put(self, items: Sequence[ItemT]) -> list["asyncio.Future[ResultT]"]:
        """Ask for items; return a future for each. One that is cancelled in time is not sent."""
        loop = asyncio.get_running_loop()
        waiting = self._loops.setdefault(loop, _Waiting())
        futures: list[asyncio.Future[ResultT]] = [loop.create_future() for _ in items]
        waiting.items += zip(items, futures, strict=True)
        while len(waiting.items) >= self._largest:
            self._send(waiting)
        if waiting.items and waiting.timer is None:
            waiting.timer = loop.call_later(self._linger_seconds, self._send, waiting)
        return futures

    def _send(self, waiting: _Waiting[ItemT, ResultT]) -> None:
        some, waiting.items = waiting.items[: self._largest], waiting.items[self._largest :]
        if not waiting.items and waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        batch = asyncio.get_running_loop().create_task(self._answer(some))
        waiting.batches.add(batch)
        batch.add_done_callback(waiting.batches.discard)

    async def _answer(self, some: list[tuple[ItemT, "asyncio.Future[ResultT]"]]) -> None:
        some = [(item, future) for item, future in some if not future.done()]
        if not some:
            return
        try:
            results = await asyncio.to_thread(self._ask, [item for item, _ in some])
            pairs = list(zip(some, results, strict=True))
        except Exception as error:  # noqa: BLE001 - it is everybody's who asked
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in pairs:
            if not future.done():
                future.set_result(result)
