"""End the streams that would otherwise hold up a drain: those that opted out of the default deadline."""

from services.runtime.error_types import UnavailableError
from services.runtime.interceptors.call import HandledCall


class LongCalls:
    """The long-lived calls in flight."""

    def __init__(self) -> None:
        self._open: set[HandledCall] = set()

    def opened(self, call: HandledCall) -> None:
        """Remember a call if its method has no bound of its own."""
        if not call.rules.bounded:
            self._open.add(call)

    def closed(self, call: HandledCall) -> None:
        """Forget a call."""
        self._open.discard(call)

    def end_all(self) -> None:
        """Tell the callers of all open streams to come back, to another replica."""
        for call in tuple(self._open):
            call.interrupt(
                UnavailableError("this replica is stopping; open the stream again", reason="SERVER_DRAINING")
            )
