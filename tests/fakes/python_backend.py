"""A fake of the module that Triton's stub gives its Python models: as much of it as our models use."""

from types import ModuleType
from typing import Any


class TritonModelException(Exception):
    """What the stub raises over a request, a response or a metric."""


class Metric:
    """A metric that refuses what Triton's refuses."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self.value = 0.0

    def increment(self, by: float) -> None:
        if self._kind == MetricFamily.COUNTER and by < 0:
            raise TritonModelException("failed to increment the metric: the increment must be non-negative")
        self.value += by

    def set(self, value: float) -> None:
        if self._kind == MetricFamily.COUNTER:
            raise TritonModelException("a counter cannot be set")
        self.value = value


class MetricFamily:
    """A named metric; ``made`` holds all by name."""

    COUNTER, GAUGE = 1, 2
    made: dict[str, Metric]

    def __init__(self, *, name: str, description: str, kind: int) -> None:
        self.name, self._kind = name, kind

    def Metric(self, *, labels: dict[str, str]) -> Metric:
        MetricFamily.made[self.name] = Metric(self._kind)
        return MetricFamily.made[self.name]


def fake_python_backend() -> Any:
    """Make ``triton_python_backend_utils``."""
    MetricFamily.made = {}
    module: Any = ModuleType("triton_python_backend_utils")
    module.TritonModelException = TritonModelException
    module.MetricFamily = MetricFamily
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    return module
