"""The metrics of all engines of one process as one: counters never fall, however many engines come and go."""

import threading
from collections.abc import Mapping

from services.inference.engines.seams import METRICS, EngineMetrics


class SharedMetrics:
    """Sums what the engines of a process report.

    One label a process rather than one a checkpoint, because a training loop registers a checkpoint every few
    minutes and Prometheus keeps every label that it ever saw.

    Args:
        published: receives the sums.
    """

    def __init__(self, published: EngineMetrics) -> None:
        self._published = published
        self._lock = threading.Lock()
        self._of_engines: dict[str, Mapping[str, float]] = {}
        self._of_the_gone: dict[str, float] = {}

    def of_engine(self, name: str) -> EngineMetrics:
        """Return where one engine reports."""
        return _EngineShare(self, name)

    def report(self, name: str, values: Mapping[str, float]) -> None:
        """Replace what one engine reported."""
        with self._lock:
            self._of_engines[name] = dict(values)
            self._publish()

    def forget(self, name: str) -> None:
        """Keep the counters of an engine that is gone, and drop its gauges."""
        with self._lock:
            for metric, value in self._of_engines.pop(name, {}).items():
                if METRICS[metric][0] == "counter":
                    self._of_the_gone[metric] = self._of_the_gone.get(metric, 0.0) + value
            self._publish()

    def _publish(self) -> None:
        sums = dict.fromkeys(METRICS, 0.0) | self._of_the_gone
        for values in self._of_engines.values():
            for metric, value in values.items():
                sums[metric] = sums.get(metric, 0.0) + value
        self._published.publish(sums)


class _EngineShare:
    def __init__(self, shared: SharedMetrics, name: str) -> None:
        self._shared = shared
        self._name = name

    def publish(self, values: Mapping[str, float]) -> None:
        self._shared.report(self._name, values)
