"""Bound every handler by its caller's deadline, or by the default where the caller gave none."""

from services.runtime.error_types import DeadlineExceededError
from services.runtime.expiries import Expiries
from services.runtime.interceptors.call import Context, HandledCall, MethodRules

# A handler is ended this much before its caller stops listening, so that the typed error still arrives.
_REPLY_MARGIN_SECONDS = 0.02
_REPLY_MARGIN_SHARE = 0.1
# gRPC rounds a timeout up on its way, by up to this share: 11 s arrive as 11.1 s.
_WIRE_ROUNDING_SHARE = 0.01


class Deadlines:
    """Gives each call its budget and interrupts the handlers that overrun theirs.

    Args:
        default_seconds: budget of a call whose caller gave no deadline.
    """

    def __init__(self, default_seconds: float) -> None:
        self._default_seconds = default_seconds
        self._expiries: Expiries[HandledCall] = Expiries(_interrupt)

    def budget_seconds(self, rules: MethodRules, context: Context) -> float | None:
        """Return the seconds the call may take; ``None`` for a long-lived stream without a deadline."""
        remaining: float | None = context.time_remaining()
        if remaining is None:
            return self._default_seconds if rules.bounded else None
        margin = min(_REPLY_MARGIN_SECONDS, remaining * _REPLY_MARGIN_SHARE) + remaining * _WIRE_ROUNDING_SHARE
        return max(0.0, remaining - margin)

    def opened(self, call: HandledCall) -> None:
        """Watch the call's deadline, if it has one."""
        deadline = call.scope.deadline_seconds
        if deadline is not None:
            self._expiries.watch(call, deadline)

    def closed(self, call: HandledCall) -> None:
        """Let the call be: its handler is done."""
        self._expiries.forget(call)


def _interrupt(call: HandledCall) -> None:
    deadline = call.scope.deadline_seconds
    assert deadline is not None
    budget = deadline - call.started_seconds
    call.interrupt(
        DeadlineExceededError(
            f"{call.rules.method} did not finish within {budget:.3g} s; allow more time or ask for less",
            metadata={"method": call.rules.method, "budget_seconds": f"{budget:.3f}"},
        )
    )
