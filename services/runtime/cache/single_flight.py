"""One computation per key, however many ask for it at once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

ResultT = TypeVar("ResultT")
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(slots=True)
class _Flight(Generic[ResultT]):
    task: "asyncio.Task[ResultT]"
    waiting: "set[asyncio.Future[None]]" = field(default_factory=set)


class FlightAbandonedError(Exception):
    """The computation that was being shared ended for a reason of the one who started it; start another."""


class SingleFlight(Generic[KeyT, ResultT]):
    """Runs at most one computation per key at a time and gives its outcome to all who wait for it.

    A waiter that is cancelled leaves the others alone; when the last one leaves, the computation is cancelled.

    Args:
        is_personal: tells failures that concern only the caller whose computation it was, such as its deadline; the
            others then start a computation of their own instead of failing with it.
    """

    def __init__(self, is_personal: Callable[[BaseException], bool] = lambda _: False) -> None:
        self._flights: dict[KeyT, _Flight[ResultT]] = {}
        self._is_personal = is_personal

    def __len__(self) -> int:
        """Return how many computations are running."""
        return len(self._flights)

    async def run(self, key: KeyT, compute: Callable[[], Coroutine[Any, Any, ResultT]]) -> tuple[ResultT, bool]:
        """Return the result of ``compute`` and whether it was another caller's computation that gave it.

        Args:
            key: what is computed; equal keys must have equal results.
            compute: called, in the context of this caller, only if nobody computes the key already.

        Raises:
            Exception: whatever the computation raised.
        """
        while True:
            flight = self._flights.get(key)
            is_ours = flight is None
            if flight is None:
                flight = self._start(key, compute)
            try:
                return await self._wait(key, flight), not is_ours
            except FlightAbandonedError:
                if is_ours:
                    raise asyncio.CancelledError from None
            except Exception as error:
                if is_ours or not self._is_personal(error):
                    raise

    def _start(self, key: KeyT, compute: Callable[[], Coroutine[Any, Any, ResultT]]) -> _Flight[ResultT]:
        flight = _Flight(asyncio.create_task(compute(), name="single flight"))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda task: self._landed(key, flight, task))
        return flight

    async def _wait(self, key: KeyT, flight: _Flight[ResultT]) -> ResultT:
        # A future each, rather than asyncio.wait(), which costs a callback of its own besides.
        landed = asyncio.get_running_loop().create_future()
        flight.waiting.add(landed)
        try:
            await landed
        finally:
            flight.waiting.discard(landed)
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()
                # The engine's work has stopped when this returns; a second cancellation does not wait for it.
                await asyncio.wait([flight.task])
        if flight.task.cancelled():
            raise FlightAbandonedError
        return flight.task.result()

    def _landed(self, key: KeyT, flight: _Flight[ResultT], task: "asyncio.Task[ResultT]") -> None:
        self._forget(key, flight)
        for landed in flight.waiting:
            if not landed.done():
                landed.set_result(None)
        if not task.cancelled():
            # Retrieved here, too: the last waiter may have been cancelled in the same moment.
            task.exception()

    def _forget(self, key: KeyT, flight: _Flight[ResultT]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
