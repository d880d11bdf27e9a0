"""How much is asked of the inference server at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge


class EngineFlow:
    """Bounds the engine requests in flight: of the whole process, and of each call, so that none starves the others.

    The gauges are what to scale on: a server that hands all requests to its engine at once has no queue to look at.

    Args:
        total: engine requests in flight at once.
        per_call: of those, how many may belong to one call.
        metrics: receives the gauges.
    """

    def __init__(self, *, total: int, per_call: int, metrics: CollectorRegistry) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_call = per_call
        self._running = Gauge(
            "evalfleet_generation_engine_requests_running", "Requests at the inference server.", registry=metrics
        )
        self._waiting = Gauge(
            "evalfleet_generation_engine_requests_waiting",
            "Requests that wait for a place at the inference server.",
            registry=metrics,
        )

    def open_call(self) -> "CallFlow":
        """Return the flow of one call."""
        return CallFlow(self, asyncio.Semaphore(self._per_call))

    @asynccontextmanager
    async def place(self, call: asyncio.Semaphore) -> AsyncIterator[None]:
        """Wait for a place, first among the call's own, then among all."""
        with self._waiting.track_inprogress():
            await call.acquire()
            try:
                await self._total.acquire()
            except BaseException:
                call.release()
                raise
        try:
            with self._running.track_inprogress():
                yield
        finally:
            self._total.release()
            call.release()


class CallFlow:
    """The places of one call."""

    def __init__(self, flow: EngineFlow, places: asyncio.Semaphore) -> None:
        self._flow = flow
        self._places = places

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for one engine request."""
        async with self._flow.place(self._places):
            yield
