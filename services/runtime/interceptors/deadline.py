"""Bound every handler by its caller's deadline, or by the default where the caller gave none."""

import asyncio

from services.runtime.error_types import DeadlineExceededError
from services.runtime.interceptors.call import HandledCall

# A handler is ended this much before its caller stops listening, so that the typed error still arrives.
_REPLY_MARGIN_SECONDS = 0.02
_REPLY_MARGIN_SHARE = 0.1


class Deadlines:
    """Gives each call its budget and interrupts the handler that overruns it.

    Args:
        default_seconds: budget of a call whose caller gave no deadline.
    """

    def __init__(self, default_seconds: float) -> None:
        self._default_seconds = default_seconds

    def budget_seconds(self, call: HandledCall) -> float | None:
        """Return the seconds the call may take; ``None`` for a long-lived stream without a deadline."""
        remaining: float | None = call.context.time_remaining()
        if remaining is None:
            return self._default_seconds if call.rules.bounded else None
        return max(0.0, remaining - min(_REPLY_MARGIN_SECONDS, remaining * _REPLY_MARGIN_SHARE))

    def arm(self, call: HandledCall, budget_seconds: float) -> None:
        """Interrupt the call's handler after ``budget_seconds``."""
        loop = asyncio.get_running_loop()
        call.timer = loop.call_later(budget_seconds, self._expire, call, budget_seconds)

    def disarm(self, call: HandledCall) -> None:
        """Let the call end by itself: its handler is done."""
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None

    @staticmethod
    def _expire(call: HandledCall, budget_seconds: float) -> None:
        call.interrupt(
            DeadlineExceededError(
                f"{call.rules.method} did not finish within {budget_seconds:.3g} s; allow more time or ask for less",
                metadata={"method": call.rules.method, "budget_seconds": f"{budget_seconds:.3f}"},
            )
        )
