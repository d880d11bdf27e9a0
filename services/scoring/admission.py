"""How many requests are in hand, how large, and of whom; who asks for more is told when to come back."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.callers import current_caller
from services.runtime.errors import QuotaViolation, ResourceExhaustedError
from services.runtime.work import Work

_SHORTEST_RETRY_SECONDS: Final = 0.05
_LONGEST_RETRY_SECONDS: Final = 30.0
_SMOOTHING: Final = 0.05


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds on the requests in hand, those that wait for their turn included.

    Attributes:
        held: of all callers.
        held_per_caller: of one caller.
        held_bytes: of all callers' requests, as they were sent.
        held_bytes_per_caller: of one caller's.
    """

    held: int = 65_536
    held_per_caller: int = 32_768
    held_bytes: int = 256 << 20
    held_bytes_per_caller: int = 128 << 20


class Admission(Collector):
    """Counts the requests in hand.

    Args:
        limits: how many there may be.
        metrics: receives the gauges.
    """

    def __init__(self, limits: AdmissionLimits | None = None, metrics: CollectorRegistry | None = None) -> None:
        self._limits = limits or AdmissionLimits()
        self._by_caller: Counter[str] = Counter()
        self._bytes_by_caller: Counter[str] = Counter()
        self._held = 0
        self._held_bytes = 0
        self._refused = 0
        self._mean_seconds = _SHORTEST_RETRY_SECONDS
        if metrics is not None:
            metrics.register(self)

    @contextmanager
    def hold(self, count: int, sent_bytes: int = 0) -> Iterator[None]:
        """Hold so many requests of the call being handled.

        Args:
            count: how many.
            sent_bytes: what they have together, as they were sent.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
            ResourceExhaustedError: TOO_MANY_REQUESTS: with them there would be too many.
        """
        caller = current_caller()
        own = self._by_caller[caller]
        # A call that is alone is never too large: it could not come back smaller.
        is_callers_share_full = own > 0 and (
            own + count > self._limits.held_per_caller
            or self._bytes_by_caller[caller] + sent_bytes > self._limits.held_bytes_per_caller
        )
        is_full = self._held > 0 and (
            self._held + count > self._limits.held or self._held_bytes + sent_bytes > self._limits.held_bytes
        )
        if is_callers_share_full or is_full:
            self._refused += count
            raise self._too_many(caller, own)
        began = time.monotonic()
        self._change(caller, count, sent_bytes)
        try:
            yield
        finally:
            self._mean_seconds += _SMOOTHING * (time.monotonic() - began - self._mean_seconds)
            self._change(caller, -count, -sent_bytes)

    def work(self) -> Work:
        """Return the requests in hand."""
        return Work(running=self._held)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        yield GaugeMetricFamily("evalfleet_scoring_held_requests", "Requests in hand.", value=self._held)
        yield GaugeMetricFamily("evalfleet_scoring_held_bytes", "Bytes of the requests in hand.", self._held_bytes)
        yield CounterMetricFamily(
            "evalfleet_scoring_refused_requests", "Requests that were sent away, too many in hand.", value=self._refused
        )

    def _change(self, caller: str, count: int, sent_bytes: int) -> None:
        self._held += count
        self._held_bytes += sent_bytes
        self._by_caller[caller] += count
        self._bytes_by_caller[caller] += sent_bytes
        if not self._by_caller[caller]:
            del self._by_caller[caller], self._bytes_by_caller[caller]

    def _too_many(self, caller: str, own: int) -> ResourceExhaustedError:
        # Half of what is in hand is gone after about a mean call; the jitter spreads the returns.
        seconds = self._mean_seconds * random.uniform(0.5, 1.5)
        wait_seconds = min(max(seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
        return ResourceExhaustedError(
            f"{self._held} requests of {self._held_bytes >> 10} KiB are in hand, {own} of them, with "
            f"{self._bytes_by_caller[caller] >> 10} KiB, of caller {caller!r}; retry in {wait_seconds:.1f} s",
            reason="TOO_MANY_REQUESTS",
            metadata={"caller": caller, "held": str(self._held), "held_of_caller": str(own)},
            retry_after_seconds=wait_seconds,
            quota_violations=(QuotaViolation(f"callers/{caller}", "requests in hand"),),
        )
