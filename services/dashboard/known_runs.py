"""Runs as the dashboard reads them: those that have ended change no more and are read once."""

import threading
import time
from collections import OrderedDict

from evalfleet.errors import NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.results import Run, RunSnapshot

MOST_LISTED = 500
# More than one page reads at once, or a page would push out what its next reading needs.
_MOST_KEPT = 2 * MOST_LISTED
_FRESH_SECONDS = 3.0


class KnownRuns:
    """Reads runs from a fleet; may be used by several threads.

    Args:
        fleet: where they are.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._kept: OrderedDict[str, tuple[float, RunSnapshot]] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self, *, model: str = "", limit: int = MOST_LISTED) -> list[Run]:
        """List runs, newest first; raises EvalFleetError."""
        return list(self.fleet.runs.list(model=model or None, limit=limit))

    def snapshot(self, run: Run) -> RunSnapshot:
        """Read a run's estimates and totals; raises EvalFleetError. A run without a result has none.

        Whoever else asks meanwhile waits, and gets the same: many open pages cost the fleet what one does.
        """
        with self._lock:
            if run.name in self._kept:
                read, found = self._kept[run.name]
                if found.run.state.is_final or time.monotonic() - read < _FRESH_SECONDS:
                    self._kept.move_to_end(run.name)
                    return found
            try:
                found = self.fleet.runs.snapshot(run.name)
            except NotFoundError:
                found = RunSnapshot(run, (), ())
            self._kept[run.name] = (time.monotonic(), found)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return found
