"""The scope around one handler, in which all behaviours act.

One scope instead of five nested interceptors: each further asynchronous context manager would cost as much as it does.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from types import TracebackType

import grpc

from services.runtime.calls import ITEM_ID_KEY, REQUEST_ID_KEY, RUN_ID_KEY, CallScope, decode_id, enter_scope
from services.runtime.interceptors.admission import Admission, Gate
from services.runtime.interceptors.call import Context, HandledCall, MethodRules
from services.runtime.interceptors.deadline import Deadlines
from services.runtime.interceptors.drain import LongCalls
from services.runtime.interceptors.errors import abort_call
from services.runtime.interceptors.logging import CallLog
from services.runtime.interceptors.metrics import CallMetrics
from services.runtime.status import as_fleet_error, code_of


@dataclass(frozen=True, slots=True)
class Behaviours:
    """Everything that is done around a call; shared by all calls of one server."""

    deadlines: Deadlines
    admission: Admission
    metrics: CallMetrics
    log: CallLog
    long_calls: LongCalls


class Handling:
    """Runs one handler inside deadline, admission, error mapping, metrics and log.

    Args:
        behaviours: of the server.
        rules: of the method.
        gate: the method's places; ``None`` lets every call in.
        context: gRPC's context of the call.
    """

    __slots__ = ("_behaviours", "_call", "_context", "_entered_seconds", "_gate", "_rules")

    def __init__(self, behaviours: Behaviours, rules: MethodRules, gate: Gate | None, context: Context) -> None:
        self._behaviours = behaviours
        self._rules = rules
        self._gate = gate
        self._context = context
        self._entered_seconds: float | None = None

    async def __aenter__(self) -> HandledCall:
        behaviours, context, gate = self._behaviours, self._context, self._gate
        task = asyncio.current_task()
        assert task is not None
        self._call = call = HandledCall(self._rules, context, task)
        budget_seconds = behaviours.deadlines.budget_seconds(call)
        enter_scope(_scope_of(context, budget_seconds))
        behaviours.metrics.started(call)
        behaviours.long_calls.opened(call)
        if budget_seconds is not None:
            behaviours.deadlines.arm(call, budget_seconds)
        if gate is not None and not gate.try_enter():
            try:
                await gate.enter()
            except BaseException as error:
                # Python does not call __aexit__ when __aenter__ fails.
                await self.__aexit__(type(error), error, error.__traceback__)
                raise
        self._entered_seconds = time.perf_counter()
        return call

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        call, behaviours = self._call, self._behaviours
        behaviours.deadlines.disarm(call)
        behaviours.long_calls.closed(call)
        now = time.perf_counter()
        if self._gate is not None and self._entered_seconds is not None:
            self._gate.leave(now - self._entered_seconds)
        try:
            if error is not None:
                await self._fail(error)
            elif (code := self._context.code()) is not None:
                call.code = code_of(code)
        finally:
            behaviours.metrics.finished(call, now - call.started_seconds)
            behaviours.log.finished(call, now - call.started_seconds)

    async def _fail(self, error: BaseException) -> None:
        """Send the status for what the handler raised; returns where gRPC itself must see the exception."""
        call = self._call
        if isinstance(error, asyncio.CancelledError):
            if call.interruption is not None:
                call.task.uncancel()
                await abort_call(call, call.interruption)
            # The caller is gone: nobody hears an answer, but gRPC frees the call only if it sees the cancellation.
            call.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, grpc.aio.AbortError):
            call.code = code_of(self._context.code())
        elif isinstance(error, grpc.aio.BaseError):
            # The transport failed under a read or a write.
            call.code = grpc.StatusCode.CANCELLED
        elif isinstance(error, Exception):
            await abort_call(call, as_fleet_error(error))


def _scope_of(context: Context, budget_seconds: float | None) -> CallScope:
    """Read the ids that came with the call; a call without a request id gets one."""
    request_id = run_id = item_id = None
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            request_id = decode_id(value)
        elif key == RUN_ID_KEY:
            run_id = decode_id(value)
        elif key == ITEM_ID_KEY:
            item_id = decode_id(value)
    deadline = None if budget_seconds is None else time.monotonic() + budget_seconds
    return CallScope(deadline, request_id or secrets.token_hex(8), run_id, item_id)
