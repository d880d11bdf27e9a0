"""The models of the local host: loaded from the same entries as Triton's, run by the same engines."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.inference import contract
from services.inference.contract import CausalLMArguments, ClassifierArguments, EncoderArguments, ModelEntry
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.checkpoint_host import CheckpointHost
from services.inference.engines.seams import METRICS, EngineMetrics, Responder, Tensors
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from services.inference.host_contract import HostArguments


class LocalModel(Protocol):
    """A loaded model: takes requests at once and answers each through its responder."""

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request."""

    def close(self) -> None:
        """Fail what is left and free the engine's thread."""


class LocalMetrics(Collector):
    """Engines' metrics for Prometheus, under the names that Triton shows them."""

    def __init__(self) -> None:
        self._values: dict[str, Mapping[str, float]] = {}

    def of_model(self, name: str) -> EngineMetrics:
        """Return where the engine of one model reports."""
        return _ModelMetrics(self._values, name)

    def forget(self, name: str) -> None:
        """Drop a model's metrics."""
        self._values.pop(name, None)

    def collect(self) -> Iterable[Metric]:
        """Yield every metric of every model."""
        for metric, (kind, description) in METRICS.items():
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(
                metric, description, labels=["model"]
            )
            for model, values in list(self._values.items()):
                family.add_metric([model], values.get(metric, 0.0))
            yield family


@dataclass(frozen=True, slots=True)
class _ModelMetrics:
    values: dict[str, Mapping[str, float]]
    name: str

    def publish(self, values: Mapping[str, float]) -> None:
        self.values[self.name] = dict(values)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that takes requests, and the configuration that it was loaded with."""

    model: LocalModel
    config: Mapping[str, Any]


class LocalModels:
    """Loads and unloads models by name.

    Args:
        metrics: where their engines report.
    """

    def __init__(self, metrics: LocalMetrics) -> None:
        self._metrics = metrics
        self._loaded: dict[str, LoadedModel] = {}
        self._loading: dict[str, asyncio.Lock] = {}

    @property
    def names(self) -> list[str]:
        """Names of the models that take requests."""
        return sorted(self._loaded)

    def get(self, name: str) -> LoadedModel:
        """Return a loaded model.

        Raises:
            InferenceFailure: MODEL_NOT_LOADED.
        """
        try:
            return self._loaded[name]
        except KeyError:
            raise InferenceFailure(
                f"model {name!r} is not loaded", reason="MODEL_NOT_LOADED", code="NOT_FOUND", metadata={"model": name}
            ) from None

    async def load(self, name: str, entry: ModelEntry) -> None:
        """Load a model; like Triton, a name that is loaded keeps its first model.

        Raises:
            InferenceFailure: the entry or its checkpoint cannot be used.
        """
        async with self._loading.setdefault(name, asyncio.Lock()):
            if name in self._loaded:
                return
            config, build = _read_entry(entry)
            model = await asyncio.to_thread(build, self._metrics.of_model(name))
            self._loaded[name] = LoadedModel(model, config)

    async def unload(self, name: str) -> None:
        """Unload a model; an unknown name is no error."""
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            await asyncio.to_thread(loaded.model.close)
            self._metrics.forget(name)

    async def close(self) -> None:
        """Unload all models."""
        for name in self.names:
            await self.unload(name)


def _read_entry(entry: ModelEntry) -> tuple[dict[str, Any], Callable[[EngineMetrics], LocalModel]]:
    """Return the configuration, and what builds the engine; the entry's model.py is not run."""
    try:
        config = json.loads(entry.config)
        engine = config["parameters"][contract.ENGINE_PARAMETER]["string_value"]
        arguments = json.loads(entry.files[f"1/{contract.ARGUMENTS_FILE}"])
        if engine == "causal_lm":
            causal = CausalLMArguments(**arguments)
            return config, lambda metrics: CausalLMEngine.load(causal, metrics)
        if engine == "checkpoint_host":
            host = HostArguments(**arguments)
            return config, lambda metrics: CheckpointHost(host, metrics)
        if engine == "sequence_classifier":
            classifier = ClassifierArguments(**arguments)
            return config, lambda metrics: SequenceClassifierEngine.load(classifier, metrics)
        if engine == "sentence_encoder":
            encoder = EncoderArguments(**arguments)
            return config, lambda metrics: SequenceClassifierEngine.load_encoder(encoder, metrics)
    except (ValueError, TypeError, LookupError) as error:
        raise InferenceFailure(f"the model entry cannot be read: {error}", reason="MODEL_ENTRY_INVALID") from error
    raise InferenceFailure(f"there is no engine {engine!r} here", reason="MODEL_ENTRY_INVALID")
