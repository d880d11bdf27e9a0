"""Connections to a fleet that several threads share, and that are replaced where they lead nowhere."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from evalfleet.fleet import Fleet


@dataclass(slots=True, eq=False)
class _Lent:
    """A fleet, how many use it now, and whether it gets no further users."""

    fleet: Fleet
    user_count: int = 0
    is_given_up: bool = False


class FleetLender:
    """Lends the same fleet to every thread until one gives it up; the next one gets new connections.

    A fleet that was started again may listen elsewhere. What is given up is closed when its last user is done with it,
    so that nobody's call is cut off.
    """

    def __init__(self, connect: Callable[[], Fleet]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._current: _Lent | None = None

    @contextmanager
    def lent(self) -> Iterator[Fleet]:
        """Lend the fleet; connects if nobody has since it was given up.

        Raises:
            Exception: what ``connect`` raised.
        """
        with self._lock:
            if self._current is None:
                self._current = _Lent(self._connect())
            mine = self._current
            mine.user_count += 1
        try:
            yield mine.fleet
        finally:
            with self._lock:
                mine.user_count -= 1
                is_last = mine.is_given_up and not mine.user_count
            if is_last:
                mine.fleet.close()

    def give_up(self, fleet: Fleet) -> None:
        """Lend this fleet no more; called by one who has it, and without effect if another was faster."""
        with self._lock:
            if self._current is not None and self._current.fleet is fleet:
                self._current.is_given_up = True
                self._current = None
