"""How long to hold something back for company, where sending together is cheaper and nobody may wait for long."""

import time
from collections.abc import Callable
from typing import Final

_SMOOTHING: Final = 0.3
_SHORTEST_SECONDS: Final = 1e-4


class Pacer:
    """Spaces out sendings while much is going on, so that each carries more.

    Nobody waits while little comes. Once ``worthwhile`` things come within ``interval_seconds``, on average over the
    last sendings, the next one is that long after the one before.

    Args:
        interval_seconds: the longest that anything is held back.
        worthwhile: how much company is worth the wait.
        clock: tells seconds.
    """

    def __init__(
        self, interval_seconds: float, *, worthwhile: float = 4.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_seconds = interval_seconds
        self._least_rate = worthwhile / interval_seconds
        self._clock = clock
        self._sent_at = clock() - interval_seconds
        self._rate = 0.0

    def delay_seconds(self) -> float:
        """Return how long what is there now should wait before it is sent; 0: not at all."""
        if self._rate < self._least_rate:
            return 0.0
        return max(0.0, self._interval_seconds - (self._clock() - self._sent_at))

    def sent(self, count: int) -> None:
        """Note that so many things were sent together."""
        now = self._clock()
        rate = count / max(now - self._sent_at, _SHORTEST_SECONDS)
        self._rate += _SMOOTHING * (rate - self._rate)
        self._sent_at = now
