"""Whether a program that a code runner did not run to its end is given to another one."""

import random
import time
from typing import Final

from services.runtime.deadlines import remaining_seconds
from services.runtime.errors import (
    CancelledCallError,
    DeadlineExceededError,
    FleetError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.sandbox.errors import SandboxBusyError, SandboxUnavailableError

LOST: Final = (UnavailableError, CancelledCallError, DeadlineExceededError)
"""What is heard where a code runner goes away under a program, or hangs."""
SHORTEST_RUN_SECONDS: Final = 1.0
"""With less time left than that, a call that was late is the caller's lateness."""
_MOST: Final = 3
_REPLACEMENT_SECONDS: Final = 60.0
"""With code runners that can contain nothing: another may, or the container of one that was spoiled starts anew."""
_PATIENCE_SECONDS: Final = 300.0
"""With code runners that have too much in hand, where the caller itself sets no limit."""
_FIRST_BACKOFF_SECONDS: Final = 0.2
_LONGEST_BACKOFF_SECONDS: Final = 5.0


class ProgramAttempts:
    """What became of one program so far.

    Attributes:
        count: how often it was not run to its end.
        lost_count: how often its code runner went away, or hung, once it had begun: it may be what ends them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.lost_count = 0
        self._away_count = 0
        self._began = time.monotonic()
        self._refused_at: float | None = None

    @property
    def has_ended_code_runners(self) -> bool:
        """Whether it is to be taken for what ends them."""
        return self.lost_count == _MOST

    def wait_after(self, failure: FleetError, *, has_begun: bool) -> float | None:
        """Return for how many seconds to wait before it is given to another code runner; None: it is not.

        Args:
            failure: what came instead of an ending.
            has_begun: whether it had its turn.
        """
        self.count += 1
        ceiling = min(_FIRST_BACKOFF_SECONDS * 2**self.count, _LONGEST_BACKOFF_SECONDS)
        backoff_seconds = random.uniform(0.5, 1.0) * ceiling
        if isinstance(failure, SandboxBusyError):
            # As where there is no code runner: the program has had its share of a machine that is too busy.
            return None
        if isinstance(failure, ResourceExhaustedError):
            wait_seconds = failure.retry_after_seconds
            return None if wait_seconds is None else _within(_PATIENCE_SECONDS, self._began, wait_seconds)
        if isinstance(failure, SandboxUnavailableError):
            # It was not run there, and what is wrong there says nothing about the next one.
            self._refused_at = self._refused_at or time.monotonic()
            return _within(_REPLACEMENT_SECONDS, self._refused_at, backoff_seconds)
        if not may_be_lost(failure):
            return None
        if has_begun:
            self.lost_count += 1
        else:
            # It waited behind another one, perhaps behind what ended the code runner.
            self._away_count += 1
        return None if _MOST in (self.lost_count, self._away_count) else backoff_seconds


def _within(patience_seconds: float, began: float, wait_seconds: float) -> float | None:
    return wait_seconds if time.monotonic() + wait_seconds <= began + patience_seconds else None


def may_be_lost(failure: FleetError) -> bool:
    """Whether a code runner went away under a program, or hangs, rather than that the caller's own time is up."""
    if isinstance(failure, DeadlineExceededError):
        left = remaining_seconds()
        return left is None or left > SHORTEST_RUN_SECONDS
    return isinstance(failure, LOST)
