"""Let a bounded number of calls run per method, queue a bounded number more, and send the rest away with a time."""

import asyncio
import random
from collections import deque
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.error_types import ResourceExhaustedError

_SHORTEST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 10.0
_SMOOTHING = 0.05


class Gate:
    """The places of one method: first come, first served.

    Args:
        method: ``package.Service/Method``.
        max_running: calls handled at once.
        max_queued: calls that wait for a place.
    """

    def __init__(self, method: str, max_running: int, max_queued: int) -> None:
        self._method = method
        self._max_running = max_running
        self._max_queued = max_queued
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = _SHORTEST_RETRY_SECONDS
        self.running = 0
        self.queued = 0
        self.rejected = 0

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.running < self._max_running and not self.queued:
            self.running += 1
            return True
        return False

    async def enter(self) -> None:
        """Wait for a place.

        Raises:
            ResourceExhaustedError: the queue is full, too.
        """
        if self.queued >= self._max_queued:
            self.rejected += 1
            raise self._too_many_calls()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.queued += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.queued -= 1
            else:
                # The place was handed over in the same moment: pass it on.
                self._release()
            raise

    def leave(self, held_seconds: float) -> None:
        """Give a place back after ``held_seconds``; the longest waiting call gets it."""
        self._mean_seconds += _SMOOTHING * (held_seconds - self._mean_seconds)
        if self._waiting:
            self._release()
        else:
            self.running -= 1

    def _release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.queued -= 1
                turn.set_result(None)
                return
        self.running -= 1

    def _too_many_calls(self) -> ResourceExhaustedError:
        # The queue drains at max_running calls per mean duration; the jitter spreads the returns.
        seconds = self._mean_seconds * (self.queued + 1) / self._max_running * random.uniform(0.8, 1.2)
        wait_seconds = min(max(seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
        return ResourceExhaustedError(
            f"{self._method} has {self.running} calls running and {self.queued} waiting; retry in {wait_seconds:.2f} s",
            reason="TOO_MANY_CALLS",
            metadata={"method": self._method, "running": str(self.running), "queued": str(self.queued)},
            retry_after_seconds=wait_seconds,
        )


class Admission(Collector):
    """One gate per method, and their gauges; register it in the process's CollectorRegistry.

    Args:
        max_running: calls of one method handled at once.
        max_queued: calls of one method that wait.
    """

    def __init__(self, max_running: int, max_queued: int) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._gates: dict[str, Gate] = {}

    def gate(self, method: str) -> Gate:
        """Return the method's gate."""
        gate = self._gates.get(method)
        if gate is None:
            gate = self._gates[method] = Gate(method, self._max_running, self._max_queued)
        return gate

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        running = GaugeMetricFamily("evalfleet_calls_running", "Calls being handled.", labels=["grpc_method"])
        queued = GaugeMetricFamily("evalfleet_calls_queued", "Calls waiting for a place.", labels=["grpc_method"])
        rejected = CounterMetricFamily("evalfleet_calls_rejected", "Calls sent away, all full.", labels=["grpc_method"])
        for method, gate in tuple(self._gates.items()):
            running.add_metric([method], gate.running)
            queued.add_metric([method], gate.queued)
            rejected.add_metric([method], gate.rejected)
        yield from (running, queued, rejected)
