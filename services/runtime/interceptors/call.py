"""The record of one call while it is handled; the behaviours share it."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc

from services.runtime.error_types import FleetError

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MethodRules:
    """How calls of one method are treated.

    Attributes:
        method: ``package.Service/Method``: metric label and log field.
        bounded: whether the default deadline applies. A long-lived stream opts out; a drain ends it.
        limited: whether admission counts its calls.
        quiet: whether calls that went well are logged at debug only (probes come every few seconds).
    """

    method: str
    bounded: bool = True
    limited: bool = True
    quiet: bool = False


@dataclass(slots=True, eq=False)
class HandledCall:
    """State of one call, from the start of its handler until its status is known.

    Attributes:
        rules: how calls of this method are treated.
        context: gRPC's context of the call.
        task: the task that runs the handler.
        started_seconds: when it began, on the clock of ``time.perf_counter``.
        received_bytes: sum over the request messages so far, uncompressed.
        sent_bytes: sum over the response messages so far, uncompressed.
        code: how it ended.
        error: what the caller was told, when it did not end well.
        interruption: why we cancelled the handler ourselves; ``None`` when a cancellation comes from the caller.
        timer: ends the call when its time is used up.
    """

    rules: MethodRules
    context: Context
    task: "asyncio.Task[Any]"
    started_seconds: float = field(default_factory=time.perf_counter)
    received_bytes: int = 0
    sent_bytes: int = 0
    code: grpc.StatusCode = grpc.StatusCode.OK
    error: FleetError | None = None
    interruption: FleetError | None = None
    timer: asyncio.TimerHandle | None = None

    def interrupt(self, reason: FleetError) -> None:
        """Cancel the handler; its caller is told ``reason``."""
        if self.interruption is None:
            self.interruption = reason
            self.task.cancel()
