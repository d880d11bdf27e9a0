"""Let a bounded number of calls run per method, queue more fairly by caller, and send the rest away with a time."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.caller_turns import CallerTurns
from services.runtime.callers import ANONYMOUS
from services.runtime.calls import current_scope
from services.runtime.error_types import ResourceExhaustedError
from services.runtime.work import Work

_SHORTEST_RETRY_SECONDS = 0.05
_LONGEST_RETRY_SECONDS = 10.0
_SMOOTHING = 0.05


@dataclass(eq=False, slots=True)
class _Waiting:
    caller: str
    turn: asyncio.Future[None]
    cost: int = 1
    since: float = field(default_factory=time.monotonic)


class Gate:
    """The places of one method. Callers who wait get them in turn, and within a caller first come is first served.

    Args:
        method: ``package.Service/Method``.
        max_running: calls handled at once.
        max_queued: calls that wait for a place.
    """

    def __init__(self, method: str, max_running: int, max_queued: int) -> None:
        self._method = method
        self._max_running = max_running
        self._max_queued = max_queued
        self._turns: CallerTurns[_Waiting] = CallerTurns()
        self._mean_seconds = _SHORTEST_RETRY_SECONDS
        self.running = 0
        self.rejected = 0

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self._turns)

    def oldest_wait_seconds(self, now: float) -> float:
        """How long the call that waits longest has waited; 0 if none waits."""
        oldest = self._turns.oldest()
        return 0.0 if oldest is None else max(0.0, now - oldest.since)

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.running < self._max_running and not len(self._turns):
            self.running += 1
            return True
        return False

    async def enter(self) -> None:
        """Wait for a place.

        Raises:
            ResourceExhaustedError: the queue is full, too, and no caller has more in it than this one; or it became so
                while this call waited as the last of a caller who has the most.
        """
        # A name that no caller can have is refused by whoever needs it; here it is one like any other.
        caller = current_scope().ids.caller or ANONYMOUS
        if len(self._turns) >= self._max_queued:
            self._make_room(caller)
        waiting = _Waiting(caller, asyncio.get_running_loop().create_future())
        self._turns.push(waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._turns:
                self._turns.remove(waiting)
            elif not waiting.turn.cancelled() and waiting.turn.exception() is None:
                # The place was handed over in the same moment: pass it on.
                self._release()
            raise

    def leave(self, held_seconds: float) -> None:
        """Give a place back after ``held_seconds``; a waiting call gets it."""
        self._mean_seconds += _SMOOTHING * (held_seconds - self._mean_seconds)
        self._release()

    def _make_room(self, caller: str) -> None:
        """Send away the last call of whoever has most waiting, or raise if that is the new one."""
        self.rejected += 1
        last = self._turns.last_of_most()
        if last is None or self._turns.count_of(last.caller) <= self._turns.count_of(caller) + 1:
            raise self._too_many_calls()
        self._turns.remove(last)
        if not last.turn.done():
            last.turn.set_exception(self._too_many_calls())

    def _release(self) -> None:
        while len(self._turns):
            turn = self._turns.pop().turn
            if not turn.done():
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

    def work(self) -> Work:
        """Return the calls of all methods."""
        now, gates = time.monotonic(), tuple(self._gates.values())
        return Work(
            running=sum(gate.running for gate in gates),
            queued=sum(gate.queued for gate in gates),
            oldest_wait_seconds=max((gate.oldest_wait_seconds(now) for gate in gates), default=0.0),
        )

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
