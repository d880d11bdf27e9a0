"""A bound on the processor time of one thread, for work that counts the time of the whole process."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

ResultT = TypeVar("ResultT")

_ENOUGH: Final = 0.9
"""Of the limit: whoever used so much of it has had it. What counts for the process counts a little of others, too."""
_MOST_NEIGHBOURS: Final = 8
"""Times the limit that a process may pass while one thread does not get to use it."""


class ThreadTimeLimit:
    """What a thread may spend on one piece of work, in processor seconds of its own; used in that thread alone.

    The ``regex`` library takes a time limit, and counts what all threads of the process use meanwhile: under it alone
    a caller's slow pattern, which other threads match beside this one, would use up this one's time. Work that ran out
    of such a limit while its own thread had not used it up is done again with a larger one, at no charge.

    Args:
        limit_seconds: begins with the first time that anybody asks for what is left.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._ends: float | None = None

    def left(self) -> float:
        """Return the seconds that are left.

        Raises:
            TimeoutError: there are none.
        """
        now = time.thread_time()
        if self._ends is None:
            self._ends = now + self._limit_seconds
        if now >= self._ends:
            raise TimeoutError
        return self._ends - now

    def attempt(self, work: Callable[[float], ResultT]) -> ResultT:
        """Return what the work does within a number of seconds of the process, which it is told.

        Raises:
            TimeoutError: it took what is left of the thread's time, or the thread got next to none of the process's.
        """
        left = allowed = self.left()
        while True:
            began = time.thread_time()
            try:
                return work(allowed)
            except TimeoutError:
                used = time.thread_time() - began
                if used >= _ENOUGH * left or allowed >= _MOST_NEIGHBOURS * left or self._ends is None:
                    raise
                self._ends += used
                allowed *= 2
