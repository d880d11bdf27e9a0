"""How much is asked of the inference server at once, by whom, and who waits."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.generation.fair_queue import FairQueue, Ticket
from services.generation.requests import Priority
from services.runtime.callers import current_caller
from services.runtime.calls import current_scope
from services.runtime.deadlines import CHILD_MARGIN_SECONDS, child_timeout_or_none
from services.runtime.errors import DeadlineExceededError, QuotaViolation, ResourceExhaustedError
from services.runtime.expiries import Expiries
from services.runtime.work import Work

_RESERVE_SHARE: Final = 16
"""One in so many places is kept for interactive requests."""
_SHORTEST_RETRY_SECONDS: Final = 0.1
_LONGEST_RETRY_SECONDS: Final = 30.0
_SMOOTHING: Final = 0.05


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on what runs and waits, in engine requests: a request for n samples is n of them.

    Attributes:
        running: at each inference server at once.
        running_per_call: of those and of the queue, how many for each server may belong to one call or stream.
        queued: waiting, of all callers.
        queued_per_caller: waiting, of one caller.
        aging_seconds: a priority whose oldest request waits longer is given some turns before higher ones.
    """

    running: int
    running_per_call: int
    queued: int = 8192
    queued_per_caller: int = 4096
    aging_seconds: float = 10.0


@dataclass(eq=False, slots=True)
class _Waiting(Ticket):
    turn: asyncio.Future[None]


class Admission(Collector):
    """The places at the inference server: bounded, handed out by priority and fairly by caller.

    Its gauges are what to scale on: a server that hands all requests to its engine has no queue to look at.

    Args:
        limits: how many run and wait.
        metrics: receives the gauges.
    """

    def __init__(self, limits: AdmissionLimits, metrics: CollectorRegistry) -> None:
        self._limits = limits
        self._servers = 1
        self._places = self._open_places = 0
        self._open(1)
        self._queue = FairQueue(aging_seconds=limits.aging_seconds)
        self._running = dict.fromkeys(Priority, 0)
        self._running_count = 0
        self._expiries: Expiries[_Waiting] = Expiries(_give_up)
        self._refused = dict.fromkeys(Priority, 0)
        self._expired = dict.fromkeys(Priority, 0)
        self._held_back: dict[object, tuple[float, int]] = {}
        self._mean_seconds = _SHORTEST_RETRY_SECONDS
        metrics.register(self)

    def open_call(self) -> "CallPlaces":
        """Return the places of the call being handled, or of one stream.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
        """
        return CallPlaces(self, current_caller(), asyncio.Semaphore(self._limits.running_per_call * self._servers))

    def resize(self, servers: int) -> None:
        """Have the places of so many inference servers, at least of one; a call keeps those that it began with."""
        self._open(max(1, servers))
        self._dispatch()

    def _open(self, servers: int) -> None:
        self._servers = servers
        self._places = servers * self._limits.running
        self._open_places = self._places - self._places // _RESERVE_SHARE

    async def enter(self, caller: str, call: asyncio.Semaphore, priority: Priority, tokens: int) -> None:
        """Wait for a place, first among the call's own, then among all; see ``CallPlaces.place``."""
        _check_time_left()
        has_waited = call.locked()
        if has_waited:
            held = object()
            self._held_back[held] = (time.monotonic(), tokens)
            try:
                await call.acquire()
            finally:
                del self._held_back[held]
        else:
            await call.acquire()
        try:
            if not self._enter_at_once(caller, priority, tokens):
                has_waited = True
                await self._enter(caller, priority, tokens)
            try:
                if has_waited:
                    # The wait may have used up what was left: then the engine is not bothered at all.
                    _check_time_left()
            except BaseException:
                self._leave(priority, 0.0)
                raise
        except BaseException:
            call.release()
            raise

    def leave(self, call: asyncio.Semaphore, priority: Priority, held_seconds: float) -> None:
        """Give a place back."""
        self._leave(priority, held_seconds)
        call.release()

    def _enter_at_once(self, caller: str, priority: Priority, tokens: int) -> bool:
        """Take a place if nobody waits and there is one; otherwise say no."""
        others = self._running_count - self._running[Priority.INTERACTIVE]
        is_open = priority is Priority.INTERACTIVE or others < self._open_places
        if self._running_count >= self._places or not is_open or len(self._queue):
            return False
        self._queue.pass_by(caller, priority, max(1, tokens))
        self._begin(priority)
        return True

    async def _enter(self, caller: str, priority: Priority, tokens: int) -> None:
        waiting = _Waiting(
            caller, priority, max(1, tokens), time.monotonic(), asyncio.get_running_loop().create_future()
        )
        self._queue.push(waiting)
        self._dispatch()
        if waiting.turn.done():
            return
        if self._is_full(caller):
            self._queue.discard(waiting)
            self._refused[priority] += 1
            raise self._too_many(caller)
        deadline = current_scope().deadline_seconds
        if deadline is not None:
            self._expiries.watch(waiting, deadline - CHILD_MARGIN_SECONDS)
        try:
            await waiting.turn
        except BaseException as error:
            if _has_come(waiting.turn):
                # The turn came in the same moment: hand it on.
                self._end(priority)
                self._dispatch()
            else:
                self._queue.discard(waiting)
            if isinstance(error, TimeoutError):
                self._expired[priority] += 1
                raise _expired_in_queue(time.monotonic() - waiting.queued_at) from None
            raise
        finally:
            self._expiries.forget(waiting)

    def _leave(self, priority: Priority, held_seconds: float) -> None:
        self._mean_seconds += _SMOOTHING * (held_seconds - self._mean_seconds)
        self._end(priority)
        self._dispatch()

    def _begin(self, priority: Priority) -> None:
        self._running[priority] += 1
        self._running_count += 1

    def _end(self, priority: Priority) -> None:
        self._running[priority] -= 1
        self._running_count -= 1

    def _dispatch(self) -> None:
        """Hand out the free places."""
        now = time.monotonic()
        while len(self._queue) and self._running_count < self._places:
            # Interactive requests in the open places must not use up what the others may have: those bound only others.
            others = self._running_count - self._running[Priority.INTERACTIVE]
            ticket = self._queue.pop(now, interactive_only=others >= self._open_places)
            if ticket is None:
                return
            assert isinstance(ticket, _Waiting)
            if not ticket.turn.done():
                self._begin(ticket.priority)
                ticket.turn.set_result(None)

    def _is_full(self, caller: str) -> bool:
        limits = self._limits
        return len(self._queue) > limits.queued or self._queue.count_of(caller) > limits.queued_per_caller

    def _too_many(self, caller: str) -> ResourceExhaustedError:
        own, waiting = self._queue.count_of(caller), len(self._queue)
        # The queue drains at so many places per mean duration; the jitter spreads the returns.
        seconds = self._mean_seconds * (waiting + 1) / self._places * random.uniform(0.8, 1.2)
        wait_seconds = min(max(seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
        return ResourceExhaustedError(
            f"{waiting} requests wait for the inference server, {own} of them of caller {caller!r}; "
            f"retry in {wait_seconds:.1f} s",
            reason="QUEUE_FULL",
            metadata={"caller": caller, "queued": str(waiting), "queued_of_caller": str(own)},
            retry_after_seconds=wait_seconds,
            quota_violations=(QuotaViolation(f"callers/{caller}", "requests waiting for the inference server"),),
        )

    def work(self) -> Work:
        """Return the requests at the engine, and those that wait for it or for others of their own call."""
        now = time.monotonic()
        held_back = tuple(self._held_back.copy().values())
        waits = [self._queue.oldest_wait_seconds(each, now) for each in Priority]
        return Work(
            running=self._running_count,
            queued=len(self._queue) + len(held_back),
            oldest_wait_seconds=max(*waits, *(now - since for since, _ in held_back[:1])),
            backlog_tokens=sum(self._queue.tokens(each) for each in Priority) + sum(tokens for _, tokens in held_back),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        now = time.monotonic()
        prefix = "evalfleet_generation"
        yield GaugeMetricFamily(
            f"{prefix}_engine_requests_running", "Requests at the inference server.", value=self._running_count
        )
        yield GaugeMetricFamily(
            f"{prefix}_engine_requests_waiting",
            "Requests that wait for a place at the inference server, or for others of their own call.",
            value=len(self._queue) + len(self._held_back),
        )
        for name, text, values in (
            ("running_requests", "Requests at the inference server.", self._running),
            ("queued_requests", "Requests in the queue.", {each: self._queue.count(each) for each in Priority}),
            ("queued_tokens", "Estimated tokens of the queue.", {each: self._queue.tokens(each) for each in Priority}),
            (
                "oldest_wait_seconds",
                "How long the oldest request in the queue has waited.",
                {each: self._queue.oldest_wait_seconds(each, now) for each in Priority},
            ),
        ):
            gauge = GaugeMetricFamily(f"{prefix}_{name}", text, labels=["priority"])
            for priority, value in values.items():
                gauge.add_metric([priority.name.lower()], value)
            yield gauge
        for name, text, counts in (
            ("refused_requests", "Requests that were sent away because the queue was full.", self._refused),
            ("expired_requests", "Requests whose time was up before their turn came.", self._expired),
        ):
            counter = CounterMetricFamily(f"{prefix}_{name}", text, labels=["priority"])
            for priority, count in counts.items():
                counter.add_metric([priority.name.lower()], count)
            yield counter


class CallPlaces:
    """The places of one call or stream."""

    def __init__(self, admission: Admission, caller: str, own: asyncio.Semaphore) -> None:
        self._admission = admission
        self._caller = caller
        self._own = own

    def place(self, priority: Priority, tokens: int) -> AbstractAsyncContextManager[None]:
        """Hold a place for one engine request.

        Args:
            priority: its class.
            tokens: estimate of what it costs.

        Raises:
            ResourceExhaustedError: QUEUE_FULL, with the time to come back.
            DeadlineExceededError: the caller's time is up before the engine was asked.
        """
        return _Place(self._admission, self._caller, self._own, priority, tokens)


class _Place(AbstractAsyncContextManager[None]):
    """One place, held for the length of an ``async with`` statement."""

    __slots__ = ("_admission", "_call", "_caller", "_entered_at", "_priority", "_tokens")

    def __init__(
        self, admission: Admission, caller: str, call: asyncio.Semaphore, priority: Priority, tokens: int
    ) -> None:
        self._admission = admission
        self._caller = caller
        self._call = call
        self._priority = priority
        self._tokens = tokens
        self._entered_at = 0.0

    async def __aenter__(self) -> None:
        await self._admission.enter(self._caller, self._call, self._priority, self._tokens)
        self._entered_at = time.monotonic()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.leave(self._call, self._priority, time.monotonic() - self._entered_at)


def _has_come(turn: asyncio.Future[None]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _give_up(waiting: _Waiting) -> None:
    if not waiting.turn.done():
        waiting.turn.set_exception(TimeoutError())


def _check_time_left() -> None:
    left = child_timeout_or_none(None)
    if left is not None and left <= 0:
        raise DeadlineExceededError(
            "no time is left to ask the inference server; allow more", reason="QUEUE_DEADLINE_EXCEEDED"
        )


def _expired_in_queue(waited_seconds: float) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"the request waited {waited_seconds:.1f} s for a place at the inference server, and its time is up; allow "
        "more, or ask for less at once",
        reason="QUEUE_DEADLINE_EXCEEDED",
        metadata={"waited_seconds": f"{waited_seconds:.3f}"},
    )
