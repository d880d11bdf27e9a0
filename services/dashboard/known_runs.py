"""Runs as the dashboard reads them: those that have ended change no more and are read once."""

import threading
from collections import OrderedDict

from evalfleet.errors import NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.results import Run, RunSnapshot

MOST_LISTED = 500
_MOST_KEPT = 256


class KnownRuns:
    """Reads runs from a fleet; may be used by several threads.

    Args:
        fleet: where they are.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._ended: OrderedDict[str, RunSnapshot] = OrderedDict()
        self._lock = threading.Lock()

    def newest(self, *, model: str = "", limit: int = MOST_LISTED) -> list[Run]:
        """List runs, newest first; raises EvalFleetError."""
        return list(self.fleet.runs.list(model=model or None, limit=limit))

    def snapshot(self, run: Run) -> RunSnapshot:
        """Read a run's estimates and totals; raises EvalFleetError. A run without a result has none."""
        with self._lock:
            if run.name in self._ended:
                self._ended.move_to_end(run.name)
                return self._ended[run.name]
        try:
            found = self.fleet.runs.snapshot(run.name)
        except NotFoundError:
            return RunSnapshot(run, (), ())
        if found.run.state.is_final:
            with self._lock:
                self._ended[run.name] = found
                while len(self._ended) > _MOST_KEPT:
                    self._ended.popitem(last=False)
        return found
