"""When a failed call is worth repeating, and how long to wait: one set of rules for blocking and async callers."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from evalfleet.errors import AbortedError, EvalFleetError, ResourceExhaustedError, UnavailableError

_JITTER: Final = 0.2
_MOST_TOKENS: Final = 10.0
_TOKENS_OF_A_SUCCESS: Final = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often idempotent calls are repeated.

    Attributes:
        attempts: most tries of a call, the first included; 1: no repetition.
        first_pause_seconds: mean wait after the first failure; it doubles with each.
        longest_pause_seconds: mean wait is never longer, except where the service says when to come back.
        restart_seconds: how long a service that has answered this connection before may be out of reach: calls are
            repeated as long, within their own time, whatever ``attempts`` says.
    """

    attempts: int = 4
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 2.0
    restart_seconds: float = 10.0


DEFAULT_RETRIES: Final = RetryPolicy()
NO_RETRIES: Final = RetryPolicy(attempts=1, restart_seconds=0.0)


class RetryThrottle:
    """Stops repetitions while fewer than about one call in ten succeeds, so that they don't finish off a sick service.

    One a connection; for any number of threads.

    Attributes:
        has_succeeded: whether any call was answered.
    """

    def __init__(self) -> None:
        self.has_succeeded = False
        self._tokens = _MOST_TOKENS
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether repetitions are in order."""
        return self._tokens > _MOST_TOKENS / 2

    def succeeded(self) -> None:
        """Note a call that was answered."""
        self.has_succeeded = True
        if self._tokens < _MOST_TOKENS:
            with self._lock:
                self._tokens = min(_MOST_TOKENS, self._tokens + _TOKENS_OF_A_SUCCESS)

    def failed(self) -> None:
        """Note a try that failed although it may be repeated."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)


class Attempts:
    """The tries of one call: how much time is left, and whether and when to try again.

    Args:
        policy: how often.
        throttle: of the connection.
        timeout_seconds: for all tries and the waits between them.
        is_idempotent: whether the call may be repeated at all.
        clock: tells seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        throttle: RetryThrottle,
        *,
        timeout_seconds: float,
        is_idempotent: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._throttle = throttle
        self._left = policy.attempts if is_idempotent else 1
        self._clock = clock
        self._ends_at = clock() + timeout_seconds
        self._mean_pause_seconds = policy.first_pause_seconds
        self._is_idempotent = is_idempotent
        self._unanswered_since: float | None = None

    @property
    def remaining_seconds(self) -> float:
        """Time left for a try; never below 0."""
        return max(0.0, self._ends_at - self._clock())

    def succeeded(self) -> None:
        """Note that the call was answered."""
        self._throttle.succeeded()

    def pause_after(self, error: EvalFleetError) -> float | None:
        """Return how many seconds to wait before the next try; ``None``: the error stands."""
        if not is_worth_repeating(error):
            return None
        is_restarting = self._may_be_restarting(error)
        self._left -= 0 if is_restarting else 1
        if error.retry_after_seconds is None and not is_restarting:
            # A service that says when to come back is well enough to look after itself.
            self._throttle.failed()
            if not self._throttle.is_open:
                return None
        pause = pause_seconds(error, self._mean_pause_seconds)
        self._mean_pause_seconds = min(2 * self._mean_pause_seconds, self._policy.longest_pause_seconds)
        return pause if self._left > 0 and pause < self.remaining_seconds else None

    def _may_be_restarting(self, error: EvalFleetError) -> bool:
        """Whether a service that was there is out of reach, and not for long: nobody is there who could be overrun."""
        if not (error.is_unanswered and self._is_idempotent and self._throttle.has_succeeded):
            return False
        now = self._clock()
        if self._unanswered_since is None:
            self._unanswered_since = now
        return now - self._unanswered_since < self._policy.restart_seconds


def is_worth_repeating(error: EvalFleetError) -> bool:
    """Return whether the same request may succeed a little later."""
    if error.is_retry_refused:
        return False
    if isinstance(error, UnavailableError):
        return True
    return isinstance(error, ResourceExhaustedError | AbortedError) and error.retry_after_seconds is not None


def pause_seconds(error: EvalFleetError, mean_seconds: float) -> float:
    """Return a wait with jitter: around ``mean_seconds``, and never before the service asks to come back."""
    if error.retry_after_seconds is None:
        return mean_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
    return error.retry_after_seconds * random.uniform(1, 1 + _JITTER)
