"""Give every call a span, as a part of its caller's where the caller is traced.

Written here, because OpenTelemetry's own interceptor for asynchronous servers fails on bidirectional methods, costs
several coroutines a call, and knows nothing of items that share a stream.
"""

from typing import Final

import grpc

from services.runtime.calls import ReceivedScope
from services.runtime.interceptors.call import HandledCall
from services.runtime.telemetry.spans import Tracer, begin_span
from services.runtime.trace_context import is_sampled

_OWN_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""OpenTelemetry's conventions call a server's span failed for these alone: the others are a caller's mistake."""


class CallTraces:
    """Opens and closes the spans of calls, named as OpenTelemetry's conventions for gRPC ask.

    Args:
        tracer: records them.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def admitted(self, call: HandledCall) -> None:
        """Begin a call's span; what the handler does belongs to it. Probes have none."""
        if call.rules.quiet or not isinstance(call.scope, ReceivedScope):
            return
        service, _, method = call.rules.method.rpartition("/")
        ids = call.scope.ids
        told = call.watched.told_trace if call.watched is not None else ""
        call.span = begin_span(
            self._tracer,
            call.rules.method,
            "server",
            parent=ids.traceparent or "",
            links=(told,) if told and is_sampled(told) else (),
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, **ids.attributes()},
        )
        call.scope.trace_as(call.span.traceparent)

    def closed(self, call: HandledCall) -> None:
        """End a call's span."""
        span = call.span
        if not span.is_recording:
            return
        span.set({"rpc.grpc.status_code": int(call.code.value[0])})
        if call.code in _OWN_FAULTS:
            span.fail(call.error.reason if call.error is not None else call.code.name)
        span.end()
