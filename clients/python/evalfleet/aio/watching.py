"""Watches that go on after the service that told them was restarted."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from evalfleet.errors import CancelledCallError, UnavailableError

MessageT = TypeVar("MessageT")

_RECONNECT_SECONDS = 0.5


async def reopened(
    open_stream: Callable[[], AsyncGenerator[MessageT, None]], *, patience_seconds: float
) -> AsyncGenerator[MessageT, None]:
    """Yield what streams tell, one after another, until the caller has heard enough.

    Args:
        open_stream: opens the first stream, and each next one.
        patience_seconds: longest time that the service may be unreachable.

    Raises:
        UnavailableError: it was unreachable for that long.
    """
    silent_since: float | None = None
    while True:
        try:
            async with aclosing(open_stream()) as messages:
                async for message in messages:
                    silent_since = None
                    yield message
        except (UnavailableError, CancelledCallError):
            if silent_since is not None and time.monotonic() - silent_since > patience_seconds:
                raise
        # A stream that ends before what it is about does belongs to a service that is draining.
        silent_since = silent_since or time.monotonic()
        await asyncio.sleep(_RECONNECT_SECONDS)
