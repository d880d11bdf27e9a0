"""The models of the local host: loaded from the same entries as Triton's, run by the same engines."""

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.inference import contract
from services.inference.contract import CausalLMArguments, ClassifierArguments, ModelEntry
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.checkpoint_host import CheckpointHost
from services.inference.engines.seams import METRICS, EngineMetrics, Responder, Tensors
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from services.inference.host_contract import HostArguments

_logger = logging.getLogger(__name__)


class LocalModel(Protocol):
    """A loaded model: takes requests at once and answers each through its responder."""

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request."""

    def close(self) -> None:
        """Fail what is left and free the engine's thread."""


class ClassifierQueue:
    """Merges waiting requests for a classifier, as Triton's dynamic batcher does.

    Args:
        engine: the classifier.
        max_batch_size: most texts taken at once, and most of one request.
    """

    def __init__(self, engine: SequenceClassifierEngine, max_batch_size: int) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._wake = threading.Condition()
        self._waiting: deque[tuple[Tensors, Responder]] = deque()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="classifier", daemon=True)
        self._thread.start()

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Queue a request."""
        if _num_rows(tensors) > self._max_batch_size:
            responder.fail(
                InferenceFailure(
                    f"a request may hold up to {self._max_batch_size} texts", reason="BATCH_TOO_LARGE", field="text"
                )
            )
            return
        with self._wake:
            self._waiting.append((tensors, responder))
            self._wake.notify()

    def close(self) -> None:
        """Answer what is queued and end the thread."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            try:
                answers = self._engine.answer([tensors for tensors, _ in batch])
            except Exception:  # the thread must outlive any batch, or every later request hangs
                _logger.exception("classifier_batch_failed")
                failure = InferenceFailure("the classifier failed", reason="ENGINE_FAILED", code="INTERNAL")
                answers = [failure] * len(batch)
            for (_, responder), answer in zip(batch, answers, strict=True):
                if isinstance(answer, InferenceFailure):
                    responder.fail(answer)
                else:
                    responder.finish(answer)

    def _take(self) -> list[tuple[Tensors, Responder]]:
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._is_closing)
            taken: list[tuple[Tensors, Responder]] = []
            room = self._max_batch_size
            while self._waiting and (room := room - _num_rows(self._waiting[0][0])) >= 0:
                taken.append(self._waiting.popleft())
            return taken


def _num_rows(tensors: Tensors) -> int:
    return len(tensors[contract.TEXT]) if contract.TEXT in tensors else 0


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
            return config, lambda metrics: ClassifierQueue(
                SequenceClassifierEngine.load(classifier, metrics), classifier.max_batch_size
            )
    except (ValueError, TypeError, LookupError) as error:
        raise InferenceFailure(f"the model entry cannot be read: {error}", reason="MODEL_ENTRY_INVALID") from error
    raise InferenceFailure(f"there is no engine {engine!r} here", reason="MODEL_ENTRY_INVALID")
