"""The record of one call while it is handled; the behaviours share it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from services.runtime.calls import CallScope
from services.runtime.error_types import FleetError
from services.runtime.security.watched import Watched
from services.runtime.telemetry.spans import NO_SPAN, Span

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MethodRules:
    """How calls of one method are treated.

    Attributes:
        method: ``package.Service/Method``: metric label and log field.
        bounded: whether the default deadline applies. A long-lived stream opts out; a drain ends it.
        limited: whether admission counts its calls.
        quiet: whether calls that went well are logged at debug only (probes come every few seconds).
        decode: reads the request in place of its proto's own parser.
    """

    method: str
    bounded: bool = True
    limited: bool = True
    quiet: bool = False
    decode: Callable[[bytes], Any] | None = None


class HandledCall:
    """State of one call, from the start of its handler until its status is known. Times are of ``time.monotonic``.

    Attributes:
        rules: how calls of this method are treated.
        context: gRPC's context of the call.
        scope: ids and deadline, which the handler's own calls inherit.
        task: the task that runs the handler.
        started_seconds: when the handler's turn came up.
        admitted_seconds: when admission let it in; ``None`` while it waits, or where nothing limits it.
        received_bytes: sum over the request messages so far, uncompressed.
        sent_bytes: sum over the response messages so far, uncompressed.
        code: how it ended.
        error: what the caller was told, when it did not end well.
        span: of the call; ``NO_SPAN`` where it is not traced.
        interruption: why we cancelled the handler ourselves; ``None`` when a cancellation comes from the caller.
        watched: what the guard follows of it; ``None``: nothing.
    """

    __slots__ = (
        "admitted_seconds",
        "code",
        "context",
        "error",
        "interruption",
        "received_bytes",
        "rules",
        "scope",
        "sent_bytes",
        "span",
        "started_seconds",
        "task",
        "watched",
    )

    def __init__(
        self, rules: MethodRules, context: Context, scope: CallScope, task: "asyncio.Task[Any]", started_seconds: float
    ) -> None:
        self.rules = rules
        self.context = context
        self.scope = scope
        self.task = task
        self.started_seconds = started_seconds
        self.admitted_seconds: float | None = None
        self.received_bytes = 0
        self.sent_bytes = 0
        self.code = grpc.StatusCode.OK
        self.error: FleetError | None = None
        self.interruption: FleetError | None = None
        self.watched: Watched | None = None
        self.span: Span = NO_SPAN

    def interrupt(self, reason: FleetError) -> None:
        """Cancel the handler; its caller is told ``reason``."""
        if self.interruption is None:
            self.interruption = reason
            self.task.cancel()
