"""What Prometheus is told of the registered models."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.generation.lifecycle import ModelLifecycle
from services.generation.models import ModelState


class ModelMetrics(Collector):
    """Counts models by state rather than by name, because a training loop registers new names for days.

    Args:
        lifecycle: knows the models.
    """

    def __init__(self, lifecycle: ModelLifecycle) -> None:
        self._lifecycle = lifecycle

    def collect(self) -> Iterable[Metric]:
        """Yield the figures of this moment."""
        models = GaugeMetricFamily("evalfleet_generation_models", "Registered models.", labels=["state"])
        counts = Counter(record.state for record in self._lifecycle.records())
        for state in ModelState:
            models.add_metric([state.value], counts[state])
        yield models
        memory = self._lifecycle.memory
        yield GaugeMetricFamily(
            "evalfleet_generation_model_memory_bytes", "Memory booked for loaded models.", value=memory.booked_bytes
        )
        yield CounterMetricFamily(
            "evalfleet_generation_model_evictions", "Models unloaded to make room for others.", value=memory.evictions
        )
