"""How far the runs are that are worked on here; a run has series as long as it is open, so that they stay few."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.evaluation.runs.record import Run

MOST_RUNS: Final = 50


class RunMetrics(Collector):
    """Shows up to ``MOST_RUNS`` runs.

    Args:
        runs: those that are worked on, the oldest first; a run that is shown stays among them until it ends.
    """

    def __init__(self, runs: Callable[[], Sequence[Run]]) -> None:
        self._runs = runs

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families for a scrape."""
        items = GaugeMetricFamily(
            "evalfleet_run_items",
            "Items of a run that is worked on here, by what became of them; open: nothing so far.",
            labels=["run", "state"],
        )
        began = GaugeMetricFamily(
            "evalfleet_run_start_time_seconds",
            "When a run began that is worked on here, since the epoch.",
            labels=["run"],
        )
        for run in islice(self._runs(), MOST_RUNS):
            if run.start_time is not None:
                began.add_metric([run.run_id], run.start_time)
            for state, count in _counts(run).items():
                items.add_metric([run.run_id, state], count)
        yield items
        yield began


def _counts(run: Run) -> dict[str, int]:
    scored = sum(each.scored_count for each in run.progress)
    failed = sum(each.failed_count for each in run.progress)
    known = sum(each.item_count or 0 for each in run.progress)
    return {"scored": scored, "failed": failed, "open": max(0, known - scored - failed)}
