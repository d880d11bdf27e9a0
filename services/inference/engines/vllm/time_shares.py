"""Shares an engine's time out among the requests that it computes at once."""

import time
from collections.abc import Callable


class TimeShares:
    """Counts each moment as shared equally by the requests in flight: what they sum up to is the engine's busy time.

    vLLM does not say which request its time went to.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight = 0
        self._counted_at = clock()
        # Seconds that a request would have got that had been in flight all the time.
        self._each = 0.0
        self._busy_seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        """Seconds in which anything was in flight."""
        self._count()
        return self._busy_seconds

    def enter(self) -> float:
        """Count a request from now on; returns what ``seconds_since`` wants."""
        self._count()
        self._in_flight += 1
        return self._each

    def leave(self) -> None:
        """Count a request no more."""
        self._count()
        self._in_flight -= 1

    def seconds_since(self, entered: float) -> float:
        """Return the share of a request that entered then and is still there."""
        self._count()
        return self._each - entered

    def _count(self) -> None:
        now = self._clock()
        if self._in_flight:
            self._each += (now - self._counted_at) / self._in_flight
            self._busy_seconds += now - self._counted_at
        self._counted_at = now
