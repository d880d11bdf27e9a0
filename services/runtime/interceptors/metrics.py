"""Measure calls under the names of gRFC A66 (OpenTelemetry metrics of gRPC), in Prometheus spelling."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.interceptors.call import HandledCall

# Both lists are A66's recommendation.
# fmt: off
_DURATION_BOUNDS_SECONDS = (
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.013,
    0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0,
    5.0, 10.0, 20.0, 50.0, 100.0,
)
_SIZE_BOUNDS_BYTES = (
    0.0, 1024.0, 2048.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0, 268435456.0,
    1073741824.0, 4294967296.0,
)
# fmt: on


class _Distribution:
    """Counts of observations per bucket; a tenth of the cost of prometheus_client's locking histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as Prometheus wants them."""
        cumulative, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            cumulative.append((bound, float(running)))
        return cumulative


class _Finished:
    """What is known of the finished calls of one method with one status."""

    __slots__ = ("duration", "received", "sent")

    def __init__(self) -> None:
        self.duration = _Distribution(_DURATION_BOUNDS_SECONDS)
        self.sent = _Distribution(_SIZE_BOUNDS_BYTES)
        self.received = _Distribution(_SIZE_BOUNDS_BYTES)


class CallMetrics(Collector):
    """Counts started calls and measures finished ones; register it in the process's CollectorRegistry.

    Written by the event loop only and read by the scraping thread: a scrape may miss a call that ends at that moment.
    Sizes are of the serialized messages: the fleet uses no compression, so they equal A66's compressed sizes.
    """

    def __init__(self) -> None:
        self._started: dict[str, int] = {}
        self._finished: dict[tuple[str, str], _Finished] = {}

    def started(self, call: HandledCall) -> None:
        """Count a call whose handling begins."""
        method = call.rules.method
        self._started[method] = self._started.get(method, 0) + 1

    def finished(self, call: HandledCall, seconds: float) -> None:
        """Add a call that ended after ``seconds``."""
        key = (call.rules.method, call.code.name)
        known = self._finished.get(key)
        if known is None:
            known = self._finished[key] = _Finished()
        known.duration.add(seconds)
        known.sent.add(call.sent_bytes)
        known.received.add(call.received_bytes)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        started = CounterMetricFamily("grpc_server_call_started", "Calls started.", labels=["grpc_method"])
        for method, count in tuple(self._started.items()):
            started.add_metric([method], count)
        yield started
        labels = ["grpc_method", "grpc_status"]
        duration = HistogramMetricFamily("grpc_server_call_duration_seconds", "Time to handle a call.", labels=labels)
        sent = HistogramMetricFamily(
            "grpc_server_call_sent_total_compressed_message_size_bytes", "Bytes of a call's responses.", labels=labels
        )
        received = HistogramMetricFamily(
            "grpc_server_call_rcvd_total_compressed_message_size_bytes", "Bytes of a call's requests.", labels=labels
        )
        for key, known in tuple(self._finished.items()):
            for family, distribution in (
                (duration, known.duration),
                (sent, known.sent),
                (received, known.received),
            ):
                family.add_metric(key, distribution.buckets(), distribution.total)
        yield from (duration, sent, received)
