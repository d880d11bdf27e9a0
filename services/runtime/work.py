"""What a replica has in hand: how much runs, how much waits and for how long. What it is scaled on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Work:
    """What is in hand at one moment, in the service's own unit: prompts, turns, outputs, items or calls.

    Attributes:
        running: begun and not answered.
        queued: waiting for a place.
        oldest_wait_seconds: how long the one that waits longest has waited; 0 if none waits.
        backlog_tokens: estimated tokens of what waits; ``None`` where work is not counted in tokens.
    """

    running: int = 0
    queued: int = 0
    oldest_wait_seconds: float = 0.0
    backlog_tokens: int | None = None

    def __add__(self, other: "Work") -> "Work":
        """Return both together."""
        tokens = [each for each in (self.backlog_tokens, other.backlog_tokens) if each is not None]
        return Work(
            self.running + other.running,
            self.queued + other.queued,
            max(self.oldest_wait_seconds, other.oldest_wait_seconds),
            sum(tokens) if tokens else None,
        )


WorkSource: TypeAlias = Callable[[], Work]
"""Says what is in hand now; called by scrapes, from their thread."""


class WorkMeter:
    """Counts what runs, where nothing else does."""

    def __init__(self) -> None:
        self._running = 0

    @contextmanager
    def running(self, count: int = 1) -> Iterator[None]:
        """Count so much as running inside the ``with`` block."""
        self._running += count
        try:
            yield
        finally:
            self._running -= count

    def work(self) -> Work:
        """Return what runs."""
        return Work(running=self._running)


class WorkMetrics(Collector):
    """The gauges that every service has under the same names; register it in the process's CollectorRegistry.

    Args:
        sources: what is in hand, all of them together.
    """

    def __init__(self, sources: Sequence[WorkSource]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        work = sum((source() for source in self._sources), Work())
        items = GaugeMetricFamily(
            "evalfleet_work_items", "Work in hand: prompts, turns, outputs, items or calls.", labels=["state"]
        )
        items.add_metric(["running"], work.running)
        items.add_metric(["queued"], work.queued)
        yield items
        yield GaugeMetricFamily(
            "evalfleet_oldest_wait_seconds",
            "How long the work that waits longest has waited; 0 if none waits.",
            value=work.oldest_wait_seconds,
        )
        if work.backlog_tokens is not None:
            yield GaugeMetricFamily(
                "evalfleet_backlog_tokens", "Estimated tokens of the work that waits.", value=work.backlog_tokens
            )
