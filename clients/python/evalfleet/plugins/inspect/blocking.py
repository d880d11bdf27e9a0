"""Calls of the client, which block, from Inspect's event loop: each waits in a thread of its own."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from evalfleet.errors import DeadlineExceededError, EvalFleetError, ResourceExhaustedError, UnavailableError

PATIENCE_SECONDS = 60.0
FOR_NOW = (ResourceExhaustedError, UnavailableError, DeadlineExceededError)
"""Errors after which the same call may succeed."""

_PAUSE_SECONDS = 0.5

AnswerT = TypeVar("AnswerT")


async def in_thread(call: Callable[[], AnswerT]) -> AnswerT:
    """Make a blocking call; when the caller is cancelled, the call is left to its own deadline."""
    # A limiter of its own: how many calls there are at once is Inspect's matter.
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


async def patiently(call: Callable[[], AnswerT], *, patience_seconds: float = PATIENCE_SECONDS) -> AnswerT:
    """Make a call that may be repeated, again and again while the service is away or has no room.

    Raises:
        EvalFleetError: what it answered; after ``patience_seconds`` also that it is away.
    """
    began = time.monotonic()
    while True:
        try:
            return await in_thread(call)
        except EvalFleetError as error:
            if not isinstance(error, FOR_NOW) or time.monotonic() - began > patience_seconds:
                raise
            pause = error.retry_after_seconds or _PAUSE_SECONDS
        await anyio.sleep(pause)
