"""What Prometheus is told of a pool."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Counted(Protocol):
    """What is counted of a pool."""

    @property
    def ready_count(self) -> int:
        """Members that take requests."""

    @property
    def away_count(self) -> int:
        """Members that do not."""

    @property
    def moved_requests(self) -> int:
        """How often a request was sent to another member."""


class PoolMetrics(Collector):
    """Counts members by state rather than by address: pods come and go.

    Args:
        pool: which.
    """

    def __init__(self, pool: Counted) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of this moment."""
        tritons = GaugeMetricFamily(
            "evalfleet_generation_tritons", "Tritons that requests are spread over.", labels=["state"]
        )
        tritons.add_metric(["ready"], self._pool.ready_count)
        tritons.add_metric(["away"], self._pool.away_count)
        yield tritons
        yield CounterMetricFamily(
            "evalfleet_generation_moved_requests",
            "Requests that were sent to another Triton because the one before had lost their model, or was gone.",
            value=self._pool.moved_requests,
        )
