"""Answer a failed call with a google.rpc.Status."""

from typing import NoReturn

import grpc
from grpc_status import rpc_status

from services.runtime.error_types import FleetError
from services.runtime.interceptors.call import HandledCall
from services.runtime.status import to_status

PUSHBACK_KEY = "grpc-retry-pushback-ms"
_DO_NOT_RETRY = "-1"


async def abort_call(call: HandledCall, error: FleetError) -> NoReturn:
    """End ``call`` with ``error``; trailing metadata that the handler set is kept.

    Raises:
        grpc.aio.AbortError: always; gRPC expects to see it.
    """
    call.error, call.code = error, error.code
    status = rpc_status.to_status(to_status(error))
    trailers = (*call.context.trailing_metadata(), *status.trailing_metadata, *_pushback(error))
    await call.context.abort(status.code, status.details, trailers)


def forget_when_done(call: HandledCall, aborted: grpc.aio.AbortError) -> None:
    """Let go of the frames that ``aborted`` holds once gRPC has seen it.

    gRPC keeps the exception in the call's state, and its traceback leads back there: request and state of every failed
    call would stay in memory until the next full garbage collection.
    """

    def forget(task: object) -> None:
        aborted.__traceback__ = aborted.__context__ = None

    call.task.add_done_callback(forget)


def _pushback(error: FleetError) -> tuple[tuple[str, str], ...]:
    """Tell gRPC's retry policy when to come back; a full quota without such a time is not retried at all."""
    if error.retry_after_seconds is not None:
        return ((PUSHBACK_KEY, str(max(1, int(error.retry_after_seconds * 1000)))),)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ((PUSHBACK_KEY, _DO_NOT_RETRY),)
    return ()
