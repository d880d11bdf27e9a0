"""The order in which waiting requests get their turn: by priority, and within a priority fairly by caller.

Within a priority callers share the engine by the tokens of their requests; see ``services.runtime.caller_turns``.
"""

from dataclasses import dataclass
from typing import Final

from services.generation.requests import Priority
from services.runtime.caller_turns import CallerTurns

STARVING_SHARE: Final = 16
"""A priority that starves gets every so-manieth turn; see ``FairQueue``."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One waiting request.

    Attributes:
        caller: whose it is.
        priority: its class.
        tokens: estimate of what it costs, at least 1.
        queued_at: when it began to wait, on the clock of ``time.monotonic``.
    """

    caller: str
    priority: Priority
    tokens: int
    queued_at: float

    @property
    def cost(self) -> int:
        """What it uses of its caller's share: its tokens."""
        return self.tokens


class _PriorityClass(CallerTurns[Ticket]):
    """The waiting requests of one priority."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_passed_over = 0

    def pass_by(self, caller: str, cost: int) -> None:
        super().pass_by(caller, cost)
        self.turns_passed_over = 0

    def remove(self, turn: Ticket) -> None:
        super().remove(turn)
        if not len(self):
            self.turns_passed_over = 0

    def oldest_at(self) -> float | None:
        oldest = self.oldest()
        return None if oldest is None else oldest.queued_at


class FairQueue:
    """Waiting requests, in the order of their turns.

    A higher priority goes first. A lower one whose oldest request has waited for ``aging_seconds`` gets every
    ``STARVING_SHARE``-th turn nevertheless: it goes on, however busy the higher ones are, and never takes over.

    Args:
        aging_seconds: after how long a priority counts as starving.
    """

    def __init__(self, *, aging_seconds: float) -> None:
        self._aging_seconds = aging_seconds
        self._classes = {priority: _PriorityClass() for priority in sorted(Priority)}
        self._by_caller: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, priority: Priority) -> int:
        """Return how many requests of a priority wait."""
        return len(self._classes[priority])

    def count_of(self, caller: str) -> int:
        """Return how many requests of a caller wait."""
        return self._by_caller.get(caller, 0)

    def tokens(self, priority: Priority) -> int:
        """Return the estimated tokens of a priority's waiting requests."""
        return self._classes[priority].cost

    def oldest_wait_seconds(self, priority: Priority, now: float) -> float:
        """Return how long the oldest request of a priority has waited; 0 if none waits."""
        oldest_at = self._classes[priority].oldest_at()
        return 0.0 if oldest_at is None else max(0.0, now - oldest_at)

    def push(self, ticket: Ticket) -> None:
        """Let a request wait."""
        self._classes[ticket.priority].push(ticket)
        self._by_caller[ticket.caller] = self.count_of(ticket.caller) + 1
        self._count += 1

    def pass_by(self, caller: str, priority: Priority, tokens: int) -> None:
        """Count a request that had its turn without waiting, which may be only while nobody waits."""
        self._classes[priority].pass_by(caller, tokens)

    def discard(self, ticket: Ticket) -> None:
        """Take out a request that gave up waiting; one that is not (any longer) here is no error."""
        if ticket in self._classes[ticket.priority]:
            self._classes[ticket.priority].remove(ticket)
            self._forget(ticket)

    def pop(self, now: float, *, interactive_only: bool = False) -> Ticket | None:
        """Take out the request whose turn it is; ``None`` if none may have one.

        Args:
            now: on the clock of ``time.monotonic``.
            interactive_only: pass the other priorities over.
        """
        waiting = [priority for priority, each in self._classes.items() if each]
        if interactive_only:
            waiting = [priority for priority in waiting if priority is Priority.INTERACTIVE]
        if not waiting:
            return None
        turn = self._classes[self._next_priority(waiting, now)]
        turn.turns_passed_over = 0
        ticket = turn.pop()
        self._forget(ticket)
        return ticket

    def _next_priority(self, waiting: list[Priority], now: float) -> Priority:
        chosen = waiting[0]
        for priority in waiting[1:]:
            if self.oldest_wait_seconds(priority, now) >= self._aging_seconds:
                starving = self._classes[priority]
                starving.turns_passed_over += 1
                if starving.turns_passed_over >= STARVING_SHARE:
                    chosen = priority
        return chosen

    def _forget(self, ticket: Ticket) -> None:
        self._count -= 1
        left = self._by_caller[ticket.caller] - 1
        if left:
            self._by_caller[ticket.caller] = left
        else:
            del self._by_caller[ticket.caller]
