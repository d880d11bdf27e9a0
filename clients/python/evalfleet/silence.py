"""Ends a stream whose service is there and answers nothing: keepalive alone sees a live connection."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evalfleet.window import Silence


@contextmanager
def ended_if_silent(silence: Silence, end: Callable[[], None]) -> Iterator[None]:
    """Watch a stream for the length of a ``with`` statement, in a thread.

    Args:
        silence: of the stream.
        end: ends it, from any thread; ``silence.was_too_long`` then says why.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(silence.left_seconds):
            if silence.left_seconds == 0 and not is_over.is_set():
                silence.was_too_long = True
                end()
                return

    threading.Thread(target=watch, name="silence of a bulk call", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
