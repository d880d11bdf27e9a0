"""Log one line per call."""

import asyncio
import logging
import time
from typing import Any, NamedTuple

import grpc
import structlog

from services.runtime.calls import CallScope
from services.runtime.interceptors.call import HandledCall, MethodRules
from services.runtime.log_setup import current_json_lines, quoted, timestamp

# The service's own trouble, as opposed to a caller's mistake.
_OWN_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_LONGEST_DELAY_SECONDS = 0.2
_MOST_DELAYED = 256


class _Success(NamedTuple):
    """What is logged of a call that went well; not the call itself, which keeps gRPC's state of it alive."""

    rules: MethodRules
    scope: CallScope
    ended_seconds: float
    duration_seconds: float


class CallLog:
    """Writes ``call_finished`` for every call, with its ids.

    Failures are written at once. Successes are collected and written together a moment later, each with the time at
    which it happened: written one by one between calls they would cost three times as much.
    """

    def __init__(self) -> None:
        # Bound at once: the lazy proxy of get_logger() would be resolved for every line.
        self._log: Any = structlog.get_logger(__name__).bind()
        self._writes_info = self._log.is_enabled_for(logging.INFO)
        self._writes_debug = self._log.is_enabled_for(logging.DEBUG)
        self._json_lines = current_json_lines()
        self._successes: list[_Success] = []
        self._timer: asyncio.TimerHandle | None = None

    def finished(self, call: HandledCall, seconds: float) -> None:
        """Log how ``call`` ended: warning when the service is at fault, else info, or debug for quiet methods."""
        if call.error is None and call.code is grpc.StatusCode.OK:
            if not (self._writes_debug if call.rules.quiet else self._writes_info):
                return
            self._successes.append(_Success(call.rules, call.scope, time.time(), seconds))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_LONGEST_DELAY_SECONDS, self.flush)
            elif len(self._successes) >= _MOST_DELAYED:
                self.flush()
            return
        self.flush()
        write = self._log.warning if call.code in _OWN_FAULTS else self._log.info
        details = {"reason": call.error.reason, "message": call.error.message} if call.error is not None else {}
        write(
            "call_finished",
            method=call.rules.method,
            code=call.code.name,
            duration_ms=round(seconds * 1000, 3),
            **details,
        )

    def flush(self) -> None:
        """Write what is still to be written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        successes, self._successes = self._successes, []
        if self._json_lines is not None:
            self._json_lines.write("".join(map(self._as_json, successes)))
            return
        for success in successes:
            write = self._log.debug if success.rules.quiet else self._log.info
            write(
                "call_finished",
                method=success.rules.method,
                code="OK",
                duration_ms=round(success.duration_seconds * 1000, 3),
                time=timestamp(success.ended_seconds),
                **success.scope.ids.fields(),
            )

    def _as_json(self, success: _Success) -> str:
        """Format the line that structlog would make of the call, at a fifth of the cost."""
        assert self._json_lines is not None
        rules, scope, ended_seconds, duration_seconds = success
        ids = "".join([f', "{name}": {quoted(value)}' for name, value in scope.ids.fields().items()])
        return (
            f'{{"event": "call_finished", "method": {quoted(rules.method)}, "code": "OK", '
            f'"duration_ms": {duration_seconds * 1000:.3f}, "time": "{timestamp(ended_seconds)}"{ids}, '
            f'"level": "{"debug" if rules.quiet else "info"}", "service": {self._json_lines.service}}}\n'
        )
