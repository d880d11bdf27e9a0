"""Engines in this process, and the way to ask them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.contract import CausalLMArguments
from services.inference.failures import InferenceFailure

Tensors = Mapping[str, Any]


class Answers:
    """A responder that keeps what it is given.

    Setting ``is_gone`` plays a caller that gave up; ``is_impatient`` one that gives up at the first response.
    """

    def __init__(self, *, is_impatient: bool = False) -> None:
        self.responses: list[Tensors] = []
        self.failure: InferenceFailure | None = None
        self.is_gone = False
        self._is_impatient = is_impatient
        self._ended = threading.Event()

    def send(self, tensors: Tensors) -> None:
        self.responses.append(tensors)
        self.is_gone |= self._is_impatient

    def finish(self, tensors: Tensors | None = None) -> None:
        if tensors is not None:
            self.responses.append(tensors)
        self._ended.set()

    def fail(self, failure: InferenceFailure) -> None:
        self.failure = failure
        self._ended.set()

    def is_cancelled(self) -> bool:
        return self.is_gone

    def wait(self) -> list[Tensors]:
        """Return all responses, or raise the failure."""
        assert self._ended.wait(timeout=60), "the engine did not answer"
        if self.failure is not None:
            raise self.failure
        return self.responses


class KeptMetrics:
    """Metrics that a test can read and wait for."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._changed = threading.Condition()

    def publish(self, values: Mapping[str, float]) -> None:
        with self._changed:
            self.values = dict(values)
            self._changed.notify_all()

    def wait_for(self, is_reached: Callable[[Mapping[str, float]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_reached(self.values), timeout=60), self.values


@pytest.fixture
def new_answers() -> type[Answers]:
    """Make responders."""
    return Answers


@pytest.fixture(scope="session")
def new_metrics() -> type[KeptMetrics]:
    """Make metrics."""
    return KeptMetrics


@pytest.fixture(scope="session")
def texts() -> Callable[..., Any]:
    """Make a tensor of texts."""

    def make(*values: str) -> Any:
        return np.array([value.encode() for value in values], dtype=np.object_)

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Path, new_metrics: Any) -> Iterator[Any]:
    """The causal-LM engine with the tiny checkpoint; its metrics are in ``metrics``."""
    from services.inference.engines.causal_lm import CausalLMEngine

    metrics = new_metrics()
    engine = CausalLMEngine.load(CausalLMArguments(model=str(tiny_checkpoint)), metrics)
    engine.metrics = metrics  # type: ignore[attr-defined]
    yield engine
    engine.close()
