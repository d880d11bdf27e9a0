"""Wait out a peer that is restarting or overloaded, within a bound."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from services.runtime.errors import FleetError

ResultT = TypeVar("ResultT")

_TRANSIENT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED})
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_WAITS_AS_ASKED = 3


def is_transient(error: FleetError) -> bool:
    """Return whether the same call may succeed later."""
    return error.code in _TRANSIENT


async def wait_out(call: Callable[[], Awaitable[ResultT]], *, patience_seconds: float) -> ResultT:
    """Repeat an idempotent call while its error is transient.

    The patience begins with the first such error: until then the call may have waited its turn for longer than that.
    Waits as long as the peer asks, up to half as long again, and longer each time after the third: all that one outage
    refused would come back together, and again. Where the peer asks nothing, with full jitter and exponential growth
    (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015).

    Raises:
        FleetError: the call's error if it is not transient, or the last one when the patience is used up.
    """
    give_up_at: float | None = None
    ceiling = _FIRST_WAIT_SECONDS
    refusals = 0
    while True:
        try:
            return await call()
        except FleetError as error:
            asked = error.retry_after_seconds
            wait = random.uniform(0, ceiling) if asked is None else _around(asked, refusals)
            if not is_transient(error):
                raise
            now = time.monotonic()
            if give_up_at is None:
                give_up_at = now + patience_seconds
            if now + wait > give_up_at:
                raise
        refusals += 1
        ceiling = min(2 * ceiling, _LONGEST_WAIT_SECONDS)
        await asyncio.sleep(wait)


def _around(asked_seconds: float, refusals: int) -> float:
    """Return how long to wait where a peer asks for a time and has refused so often before."""
    grown = asked_seconds * 2.0 ** min(10, max(0, refusals - _WAITS_AS_ASKED + 1))
    return max(asked_seconds, min(grown, _LONGEST_WAIT_SECONDS)) * random.uniform(1.0, 1.5)
