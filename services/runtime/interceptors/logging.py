"""Log one line per call."""

from typing import Any

import grpc
import structlog

from services.runtime.interceptors.call import HandledCall

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


class CallLog:
    """Writes ``call_finished`` for every call; request, run and item id are added by the log's own processor."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger(__name__).bind()

    def finished(self, call: HandledCall, seconds: float) -> None:
        """Log how ``call`` ended: warning when the service is at fault, else info, or debug for quiet methods."""
        if call.code in _OWN_FAULTS:
            write = self._log.warning
        elif call.rules.quiet:
            write = self._log.debug
        else:
            write = self._log.info
        error = call.error
        if error is None:
            write(
                "call_finished",
                method=call.rules.method,
                code=call.code.name,
                duration_ms=round(seconds * 1000, 3),
            )
        else:
            write(
                "call_finished",
                method=call.rules.method,
                code=call.code.name,
                duration_ms=round(seconds * 1000, 3),
                reason=error.reason,
                message=error.message,
            )
