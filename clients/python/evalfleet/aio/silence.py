"""Ends a stream whose service is there and answers nothing, on an event loop."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evalfleet.window import Silence


@contextmanager
def ended_if_silent(silence: Silence, end: Callable[[], None]) -> Iterator[None]:
    """Watch a stream for the length of a ``with`` statement; the arguments are those of ``silence.ended_if_silent``."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        left = silence.left_seconds
        if left > 0:
            timer = loop.call_later(left, look)
        else:
            silence.was_too_long = True
            end()

    timer = loop.call_later(silence.left_seconds, look)
    try:
        yield
    finally:
        timer.cancel()
