"""The items of a bulk call between being read and being told: which are to be sent, which are open, what came back.

Nothing here waits, locks or sends; ``bulk`` and ``aio.bulk`` do, and share these rules.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from evalfleet.errors import CancelledCallError, DeadlineExceededError, EvalFleetError
from evalfleet.message_sizes import size_bytes
from evalfleet.retrying import is_worth_repeating, pause_seconds

WINDOW_ITEMS: Final = 1024
"""Items that are read and not yet told, by default."""
LONGEST_STREAM_SECONDS: Final = 3600.0
"""A stream is cut after this long."""
TAKING_SECONDS: Final = 240.0
"""A stream takes items for this long, then ends with those that it has, and the next one may go to a service that is
new: four fifths of the age at which services renew connections."""
LARGEST_GROUP: Final = 64
"""Items of one message, where the service reads such: a message costs more than what is in it."""
GROUPS_KEY: Final = "evalfleet-item-groups"
"""Initial metadata by which a service says that it reads messages of several items; one that is older does not."""

_LARGEST_GROUP_BYTES: Final = 1024 * 1024
_TRIES: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0

RequestT = TypeVar("RequestT")


class Outcome(Protocol):
    """What a bulk stream says of an item."""

    @property
    def item_id(self) -> str:
        """Id of the item."""
        ...


OutcomeT = TypeVar("OutcomeT", bound=Outcome)


class Sent(NamedTuple, Generic[RequestT]):
    """An item as it goes over a stream: under an id that no stream has seen before."""

    item_id: str
    request: RequestT


@dataclass(slots=True)
class _Open(Generic[RequestT]):
    """An item without an outcome, and how often it was tried in vain."""

    request: RequestT
    failures: int = 0


class Window(Generic[RequestT, OutcomeT]):
    """What is known of the items in hand; never more than ``size``.

    Items have the number of their place in the source. One whose outcome says that it may succeed later is sent again,
    up to five times in all.

    Args:
        size: most items that are read and not told.
        in_order: outcomes are told in the order of the items; otherwise as they come.
        error_of: the error that an outcome holds, or ``None``.
        clock: tells seconds.
    """

    def __init__(
        self,
        size: int,
        *,
        in_order: bool,
        error_of: Callable[[OutcomeT], EvalFleetError | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if size < 1:
            raise ValueError("a window holds at least one item")
        self._size = size
        self._in_order = in_order
        self._error_of = error_of
        self._clock = clock
        self._read_count = 0
        self._told_count = 0
        self._open: dict[int, _Open[RequestT]] = {}
        self._to_send: deque[int] = deque()
        self._later: list[tuple[float, int]] = []
        self._ready: dict[int, OutcomeT | EvalFleetError] = {}
        self._heard_at = 0.0
        self._takes_until = math.inf
        self.is_exhausted = False
        """Set by whoever reads the source, when it has no more."""

    @property
    def has_room(self) -> bool:
        """Whether another item may be read."""
        return self._read_count - self._told_count < self._size

    @property
    def has_to_send(self) -> bool:
        """Whether an item is to be sent now."""
        return bool(self._to_send)

    @property
    def is_done(self) -> bool:
        """Whether the source is exhausted and every item has its outcome, told or ready to be."""
        return self.is_exhausted and not self._open

    @property
    def is_idle(self) -> bool:
        """Whether outcomes wait to be told while no other can come: a stream that goes on would hold them up."""
        return bool(self._ready) and not self._open

    @property
    def is_stream_old(self) -> bool:
        """Whether the stream has taken items for long enough."""
        return self._clock() >= self._takes_until

    @property
    def is_all_sent(self) -> bool:
        """Whether the stream gets no further item."""
        return self.is_done or self.is_idle or self.is_stream_old

    @property
    def open_count(self) -> int:
        """Items without an outcome."""
        return len(self._open)

    @property
    def waiting_since(self) -> float | None:
        """Time of the latest outcome, or of the first item that was read after it; ``None`` if none waits for one."""
        return self._heard_at if self._open else None

    def read(self, item: RequestT | EvalFleetError) -> None:
        """Take the next item of the source, or what is wrong with it."""
        number = self._read_count
        self._read_count += 1
        if isinstance(item, EvalFleetError):
            self._ready[number] = item
        else:
            if not self._open:
                self._heard_at = self._clock()
            self._open[number] = _Open(item)
            self._to_send.append(number)

    def begin_stream(self) -> None:
        """Have everything without an outcome sent again, the oldest first."""
        self._to_send = deque(sorted(self._open))
        self._later.clear()
        self._takes_until = self._clock() + TAKING_SECONDS

    def next_to_send(self, most: int = 1) -> list[Sent[RequestT]]:
        """Return the next items to send, if any is due: up to ``most``, and no more than a message should carry."""
        self._wake()
        group: list[Sent[RequestT]] = []
        left_bytes = _LARGEST_GROUP_BYTES
        while self._to_send and len(group) < most:
            number = self._to_send[0]
            item = self._open[number]
            if most > 1:
                left_bytes -= size_bytes(item.request)
                if group and left_bytes < 0:
                    break
            self._to_send.popleft()
            # A stream takes no id twice.
            name = f"{number}.{item.failures}" if item.failures else str(number)
            group.append(Sent(name, item.request))
        return group

    def next_due_seconds(self) -> float:
        """Return how long until an item is to be sent again, or the stream is old."""
        due = min((at for at, _ in self._later), default=math.inf)
        return max(0.0, min(due, self._takes_until) - self._clock())

    def outcome(self, message: OutcomeT) -> None:
        """Take an outcome; one of an item that has one already, or of none, is dropped."""
        self._heard_at = self._clock()
        text, _, tried = message.item_id.partition(".")
        number = int(text) if text.isascii() and text.isdigit() else -1
        item = self._open.get(number)
        if item is None or str(item.failures) != (tried or "0"):
            return
        error = self._error_of(message)
        if error is not None and is_worth_repeating(error) and item.failures + 1 < _TRIES:
            mean = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**item.failures)
            item.failures += 1
            self._later.append((self._clock() + pause_seconds(error, mean), number))
            return
        del self._open[number]
        self._ready[number] = message

    def told(self) -> Iterator[tuple[int, OutcomeT | EvalFleetError]]:
        """Yield the outcomes that are to be told now; each makes room for another item."""
        while self._ready:
            number = self._told_count if self._in_order else next(iter(self._ready))
            if number not in self._ready:
                return
            outcome = self._ready.pop(number)
            self._told_count += 1
            yield number, outcome

    def _wake(self) -> None:
        now = self._clock()
        due = sorted(each for each in self._later if each[0] <= now)
        if due:
            self._later = [each for each in self._later if each[0] > now]
            self._to_send.extend(number for _, number in due)


def may_reopen(error: EvalFleetError) -> bool:
    """Return whether a stream that ended so is worth another: its replica went away, or its time was up."""
    return isinstance(error, CancelledCallError | DeadlineExceededError) or is_worth_repeating(error)


class Silence:
    """Says when a stream has given no outcome for too long while there are items without one.

    Args:
        window: of the items.
        seconds: longest time; time in which nobody listens does not count.
        clock: tells seconds, as the window's does.
    """

    def __init__(
        self, window: Window[RequestT, OutcomeT], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._seconds = seconds
        self._clock = clock
        self._listening_since: float | None = clock()
        self.was_too_long = False
        """Set by whoever ends the stream for it."""

    def listen(self, is_listening: bool) -> None:
        """Note that outcomes are waited for from now on, or that they are not."""
        self._listening_since = self._clock() if is_listening else None

    @property
    def left_seconds(self) -> float:
        """How long it may go on, at least; 0: it has been too long."""
        heard_at, listening_since = self._window.waiting_since, self._listening_since
        if heard_at is None or listening_since is None:
            return self._seconds
        return max(0.0, max(heard_at, listening_since) + self._seconds - self._clock())

    def error(self) -> EvalFleetError:
        """Return the error of a service that is there and answers nothing."""
        return DeadlineExceededError(
            f"the service has answered none of {self._window.open_count} items for {self._seconds:g} s",
            reason="STREAM_SILENT",
        )


def stream_ended() -> EvalFleetError:
    """Return the error of a service that ends a stream as if nothing were missing."""
    return EvalFleetError("the service ends its streams without answering all items", reason="STREAM_ENDED")


class Patience:
    """Says when a service has been away for too long.

    Args:
        seconds: longest time without an outcome, while there are items without one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent_since: float | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def heard(self) -> None:
        """Note an outcome."""
        self._silent_since = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def pause_after(self, error: EvalFleetError) -> float | None:
        """Return how long to wait after a stream that ended so; ``None``: the error stands."""
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self._seconds:
            return None
        pause = pause_seconds(error, self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        return min(pause, self._seconds)
