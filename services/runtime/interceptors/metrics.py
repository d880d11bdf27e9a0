"""Measure calls under the names of gRFC A66 (OpenTelemetry metrics of gRPC), in Prometheus spelling."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

import grpc
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


class _Finished:
    """What is known of the finished calls of one method with one status.

    Plain counts per bucket cost a tenth of prometheus_client's locking histograms.
    """

    __slots__ = (
        "duration_counts",
        "duration_seconds",
        "received_bytes",
        "received_counts",
        "sent_bytes",
        "sent_counts",
    )

    def __init__(self) -> None:
        self.duration_counts = [0] * (len(_DURATION_BOUNDS_SECONDS) + 1)
        self.sent_counts = [0] * (len(_SIZE_BOUNDS_BYTES) + 1)
        self.received_counts = [0] * (len(_SIZE_BOUNDS_BYTES) + 1)
        self.duration_seconds = 0.0
        self.sent_bytes = 0
        self.received_bytes = 0


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return cumulative counts by upper bound, as Prometheus wants them."""
    names = (*map(str, bounds), "+Inf")
    return [(name, float(total)) for name, total in zip(names, accumulate(counts), strict=True)]


class CallMetrics(Collector):
    """Counts started calls and measures finished ones; register it in the process's CollectorRegistry.

    Written by the event loop only and read by the scraping thread: a scrape may miss a call that ends at that moment.
    Sizes are of the serialized messages: the fleet uses no compression, so they equal A66's compressed sizes.
    """

    def __init__(self) -> None:
        self._started: dict[str, int] = {}
        self._finished: dict[tuple[str, grpc.StatusCode], _Finished] = {}

    def started(self, call: HandledCall) -> None:
        """Count a call whose handling begins."""
        method = call.rules.method
        self._started[method] = self._started.get(method, 0) + 1

    def finished(self, call: HandledCall, seconds: float) -> None:
        """Add a call that ended after ``seconds``."""
        key = (call.rules.method, call.code)
        known = self._finished.get(key)
        if known is None:
            known = self._finished[key] = _Finished()
        sent_bytes, received_bytes = call.sent_bytes, call.received_bytes
        known.duration_counts[bisect_left(_DURATION_BOUNDS_SECONDS, seconds)] += 1
        known.sent_counts[bisect_left(_SIZE_BOUNDS_BYTES, sent_bytes)] += 1
        known.received_counts[bisect_left(_SIZE_BOUNDS_BYTES, received_bytes)] += 1
        known.duration_seconds += seconds
        known.sent_bytes += sent_bytes
        known.received_bytes += received_bytes

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
        for (method, code), known in tuple(self._finished.items()):
            key = (method, code.name)
            duration.add_metric(key, _buckets(_DURATION_BOUNDS_SECONDS, known.duration_counts), known.duration_seconds)
            sent.add_metric(key, _buckets(_SIZE_BOUNDS_BYTES, known.sent_counts), known.sent_bytes)
            received.add_metric(key, _buckets(_SIZE_BOUNDS_BYTES, known.received_counts), known.received_bytes)
        yield from (duration, sent, received)
