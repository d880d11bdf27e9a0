"""All behaviours around one handler: what happens when a call begins, when it fails, and when it is over.

Plain functions that the wrapped handlers call, not nested interceptors or context managers: each further coroutine per
call costs about as much as a behaviour itself.
"""

import asyncio
import itertools
import secrets
import time
from dataclasses import dataclass

import grpc

from services.runtime.calls import ReceivedMetadata, ReceivedScope, current_scope, enter_scope
from services.runtime.interceptors.admission import Admission, Gate
from services.runtime.interceptors.call import Context, HandledCall, MethodRules
from services.runtime.interceptors.deadline import Deadlines
from services.runtime.interceptors.drain import LongCalls
from services.runtime.interceptors.errors import abort_call, forget_when_done
from services.runtime.interceptors.logging import CallLog
from services.runtime.interceptors.metrics import CallMetrics
from services.runtime.interceptors.tracing import CallTraces
from services.runtime.security.guard import Guard
from services.runtime.status import as_fleet_error, code_of


@dataclass(frozen=True, slots=True)
class Behaviours:
    """Everything that is done around a call; shared by all calls of one server."""

    deadlines: Deadlines
    admission: Admission
    metrics: CallMetrics
    log: CallLog
    long_calls: LongCalls
    guard: Guard
    traces: CallTraces | None = None


class Handling:
    """Applies the behaviours to the calls of one server."""

    def __init__(self, behaviours: Behaviours) -> None:
        self._deadlines = behaviours.deadlines
        self._metrics = behaviours.metrics
        self._log = behaviours.log
        self._long_calls = behaviours.long_calls
        self._guard = behaviours.guard
        self._traces = behaviours.traces
        # Unique without asking the system for randomness on every call.
        self._id_prefix = secrets.token_hex(6)
        self._id_numbers = itertools.count(1)

    def announce(self, metadata: ReceivedMetadata) -> None:
        """Give the call that arrives in this task its ids, before its message is there."""
        enter_scope(ReceivedScope(metadata, self._new_id))

    def begin(self, rules: MethodRules, context: Context) -> HandledCall:
        """Open an announced call: deadline and count."""
        task = asyncio.current_task()
        assert task is not None
        scope = current_scope()
        now = time.monotonic()
        budget_seconds = self._deadlines.budget_seconds(rules, context)
        if budget_seconds is not None:
            scope.deadline_seconds = now + budget_seconds
        call = HandledCall(rules, context, scope, task, now)
        self._metrics.started(call)
        self._deadlines.opened(call)
        if not rules.bounded:
            self._long_calls.opened(call)
        return call

    def admitted(self, call: HandledCall) -> None:
        """Begin what is done for calls that were let in."""
        if self._traces is not None:
            self._traces.admitted(call)

    def guard(self, rules: MethodRules) -> Guard | None:
        """Return who lets in the calls of a method; ``None``: anybody may make them."""
        return self._guard if self._guard.watches(rules.method) else None

    async def fail(self, call: HandledCall, error: BaseException) -> None:
        """Send the status for what the handler raised.

        Returns where gRPC itself must see ``error``; the wrapped handler then raises it again.

        Raises:
            grpc.aio.AbortError: the status is sent.
        """
        try:
            await self._answer(call, error)
        except grpc.aio.AbortError as aborted:
            forget_when_done(call, aborted)
            raise

    async def _answer(self, call: HandledCall, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            if call.interruption is not None:
                call.task.uncancel()
                await abort_call(call, call.interruption)
            # The caller is gone: nobody hears an answer, but gRPC frees the call only if it sees the cancellation.
            call.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, grpc.aio.AbortError):
            call.code = code_of(call.context.code())
            forget_when_done(call, error)
        elif isinstance(error, grpc.aio.BaseError):
            # The transport failed under a read or a write.
            call.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, Exception):
            await abort_call(call, as_fleet_error(error))

    def finish(self, call: HandledCall, gate: Gate | None) -> None:
        """Close a call, however it ended: free its place, stop its clock, measure and log it."""
        now = time.monotonic()
        self._deadlines.closed(call)
        if not call.rules.bounded:
            self._long_calls.closed(call)
        if gate is not None and call.admitted_seconds is not None:
            gate.leave(now - call.admitted_seconds)
        if call.watched is not None:
            self._guard.finish(call)
        seconds = now - call.started_seconds
        self._metrics.finished(call, seconds)
        self._log.finished(call, seconds)
        if self._traces is not None:
            self._traces.closed(call)
        # The error's traceback holds the frame that holds the call: a cycle, were the call to keep the error.
        call.error = call.interruption = None

    def _new_id(self) -> str:
        return f"{self._id_prefix}{next(self._id_numbers):x}"
