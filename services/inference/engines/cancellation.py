"""Asks from time to time whether the caller of a request gave up."""

import time
from typing import Final

from services.inference.engines.seams import Responder

CANCEL_CHECK_SECONDS: Final = 0.04
"""How often a request is asked for; asking costs a message between processes. Callers are promised 100 ms."""


class CancelWatch:
    """Remembers that a caller gave up; called as often as one likes.

    Args:
        responder: the way back, which knows.
    """

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._asked_at = time.monotonic()
        self._was_cancelled = False

    def __call__(self) -> bool:
        """Return whether the caller gave up, as known at most CANCEL_CHECK_SECONDS ago."""
        now = time.monotonic()
        if not self._was_cancelled and now - self._asked_at >= CANCEL_CHECK_SECONDS:
            self._asked_at = now
            self._was_cancelled = self._responder.is_cancelled()
        return self._was_cancelled
