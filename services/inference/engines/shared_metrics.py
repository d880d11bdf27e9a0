"""The metrics of all engines of one process as one: counters never fall, however many engines come and go."""

import threading
from collections.abc import Mapping

from services.inference.engines.reporting import publish_or_log
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
        self._shares: dict[str, _EngineShare] = {}
        self._of_the_gone: dict[str, float] = {}

    def of_engine(self, name: str) -> EngineMetrics:
        """Return where one engine reports; what is reported there once it is forgotten counts no more."""
        with self._lock:
            return self._shares.setdefault(name, _EngineShare(self, name))

    def report(self, share: "_EngineShare", values: Mapping[str, float]) -> None:
        """Replace what one engine reported; a counter that falls began anew."""
        with self._lock:
            if self._shares.get(share.name) is not share:
                return
            self._keep({name: before for name, before in share.values.items() if values.get(name, 0.0) < before})
            share.values = dict(values)
            self._publish()

    def forget(self, name: str) -> None:
        """Keep the counters of an engine that is gone, and drop its gauges."""
        with self._lock:
            share = self._shares.pop(name, None)
            if share is not None:
                self._keep(share.values)
                self._publish()

    def _keep(self, values: Mapping[str, float]) -> None:
        for metric, value in values.items():
            if METRICS[metric][0] == "counter":
                self._of_the_gone[metric] = self._of_the_gone.get(metric, 0.0) + value

    def _publish(self) -> None:
        sums = dict.fromkeys(METRICS, 0.0) | self._of_the_gone
        for share in self._shares.values():
            for metric, value in share.values.items():
                sums[metric] = sums.get(metric, 0.0) + value
        publish_or_log(self._published, sums)


class _EngineShare:
    def __init__(self, shared: SharedMetrics, name: str) -> None:
        self._shared = shared
        self.name = name
        self.values: Mapping[str, float] = {}

    def publish(self, values: Mapping[str, float]) -> None:
        self._shared.report(self, values)
