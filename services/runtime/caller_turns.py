"""The order in which what waits gets its turn: fairly by caller.

This is fair queueing by virtual time: each caller has a clock that what it uses pushes forward, and the caller whose
clock is furthest behind is next. A caller that begins to wait starts at the present, so that it neither saves up turns
while it is idle nor has to make up for them. Many small things and few large ones thus get the same share, however many
either caller has waiting.
"""

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

_REMEMBERED_CLOCKS: Final = 1024


class Turn(Protocol):
    """Something that waits; compared by identity."""

    @property
    def caller(self) -> str:
        """Whose it is."""

    @property
    def cost(self) -> int:
        """What it will use, as far as is known, at least 1; in a unit of the queue's owner."""


TurnT = TypeVar("TurnT", bound=Turn)


class CallerTurns(Generic[TurnT]):
    """What waits, in the order of the turns.

    Attributes:
        cost: of all that waits.
    """

    def __init__(self) -> None:
        self._callers: dict[str, OrderedDict[TurnT, None]] = {}
        self._arrivals: OrderedDict[TurnT, None] = OrderedDict()
        self._clocks: dict[str, int] = {}
        self._now = 0
        self.cost = 0

    def __len__(self) -> int:
        """Return how much waits."""
        return len(self._arrivals)

    def __contains__(self, turn: TurnT) -> bool:
        """Return whether something waits here."""
        return turn in self._arrivals

    def count_of(self, caller: str) -> int:
        """Return how much of a caller waits."""
        return len(self._callers.get(caller, ()))

    def last_of_most(self) -> TurnT | None:
        """Return what came last of a caller of whom most waits; None if nothing does."""
        most = max(self._callers, key=self.count_of, default=None)
        return None if most is None else next(reversed(self._callers[most]))

    def push(self, turn: TurnT) -> None:
        """Let something wait."""
        self._callers.setdefault(turn.caller, OrderedDict())[turn] = None
        self._arrivals[turn] = None
        self.cost += turn.cost

    def pop(self) -> TurnT:
        """Take out what is next; something must wait."""
        caller = min(self._callers, key=self._clock)
        self._now = self._clock(caller)
        turn = next(iter(self._callers[caller]))
        self.remove(turn)
        self.charge(caller, turn.cost)
        return turn

    def pass_by(self, caller: str, cost: int) -> None:
        """Count something that had its turn without waiting, which may be only while nothing waits."""
        self._now = self._clock(caller)
        self.charge(caller, cost)

    def charge(self, caller: str, cost: int) -> None:
        """Count what a caller used beyond what was known when it had its turn."""
        self._clocks[caller] = self._clock(caller) + cost
        if len(self._clocks) > _REMEMBERED_CLOCKS:
            # A clock that lies behind the present says no more than none at all.
            self._clocks = {name: at for name, at in self._clocks.items() if at > self._now}

    def remove(self, turn: TurnT) -> None:
        """Take out something that waits."""
        waiting = self._callers[turn.caller]
        del waiting[turn], self._arrivals[turn]
        self.cost -= turn.cost
        if not waiting:
            del self._callers[turn.caller]

    def oldest(self) -> TurnT | None:
        """Return what waits longest; None if nothing does."""
        try:
            return next(iter(self._arrivals), None)
        except RuntimeError:
            # A scrape comes from another thread, and the queue changed under it.
            return None

    def _clock(self, caller: str) -> int:
        return max(self._now, self._clocks.get(caller, 0))
