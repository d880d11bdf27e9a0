"""Ends what takes too long, with one timer for all of it.

Nearly everything ends long before its time is up, and a timer of its own, which is set and cancelled, would cost each
thing more than most of what is done with it.
"""

import asyncio
import math
import time
from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import Final, Generic, TypeVar

_EARLY_SECONDS: Final = 0.001
"""Event loops round their timers to milliseconds."""

ThingT = TypeVar("ThingT", bound=Hashable)


class Expiries(Generic[ThingT]):
    """Watches deadlines; for use on one event loop.

    Args:
        on_expiry: told of each thing that is still watched when its time is up, once, those that were due first before
            the others; it is not watched from then on.
    """

    def __init__(self, on_expiry: Callable[[ThingT], None]) -> None:
        self._on_expiry = on_expiry
        self._deadlines: dict[ThingT, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_seconds = math.inf

    def watch(self, thing: ThingT, deadline_seconds: float) -> None:
        """Watch a thing until ``deadline_seconds`` on the clock of ``time.monotonic``."""
        self._deadlines[thing] = deadline_seconds
        if deadline_seconds < self._timer_seconds:
            self._set_timer(deadline_seconds)

    def forget(self, thing: ThingT) -> None:
        """Let a thing be; one that is not (any longer) watched is no error."""
        self._deadlines.pop(thing, None)

    def close(self) -> None:
        """Let everything be."""
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_seconds = None, math.inf

    def _set_timer(self, deadline_seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_seconds = deadline_seconds
        # By the time that is left: not every loop's own clock is that of time.monotonic.
        left = max(0.0, deadline_seconds - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(left, self._check)

    def _check(self) -> None:
        """Tell of what is late, and set the timer for the next deadline."""
        self._timer, self._timer_seconds = None, math.inf
        now = time.monotonic() + _EARLY_SECONDS
        late = sorted((each for each in self._deadlines.items() if each[1] <= now), key=itemgetter(1))
        for thing, _ in late:
            # What is done about one may be the end of another.
            if self._deadlines.pop(thing, None) is not None:
                self._on_expiry(thing)
        earliest = min(self._deadlines.values(), default=math.inf)
        if earliest < self._timer_seconds:
            self._set_timer(earliest)
