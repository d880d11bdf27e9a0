"""One process that holds many checkpoints: loads, unloads and lists them, and hands each request to its engine.

Starting a process with PyTorch costs seconds and some 400 MB; a checkpoint that comes into a running one costs what
reading its weights costs. The engines of a process take turns at computing.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from services.inference.contract import CausalLMArguments
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.memory import device_memory_bytes, release_free_memory
from services.inference.engines.request_reading import answering_failures
from services.inference.engines.seams import EngineMetrics, Responder, Tensors, decoded_texts, texts
from services.inference.engines.shared_metrics import SharedMetrics
from services.inference.engines.turns import FairLock
from services.inference.failures import InferenceFailure
from services.inference.host_contract import (
    CHECKPOINT,
    CONTROL_KEY,
    OPERATION,
    REPORT,
    HostArguments,
    HostReport,
    Operation,
    parse_operation,
)

_logger = logging.getLogger(__name__)

_DRAIN_SECONDS: Final = 30.0
"""How long an unload waits for the requests in flight before it fails them."""


class CheckpointEngine(Protocol):
    """An engine with one checkpoint."""

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request and return before it is computed."""

    def close(self) -> None:
        """Fail what is left and stop computing."""


LoadEngine = Callable[[CausalLMArguments, EngineMetrics, AbstractContextManager[object]], CheckpointEngine]


@dataclass(slots=True)
class _Resident:
    engine: CheckpointEngine
    in_flight: int = 0


@dataclass(slots=True)
class _Loading:
    """A load that others may wait for."""

    ended: threading.Event = field(default_factory=threading.Event)
    failure: InferenceFailure | None = None


class CheckpointHost:
    """Holds checkpoints by name.

    Args:
        arguments: whose key allows operations.
        metrics: receives the sums over all engines.
        load_engine: loads a checkpoint and starts its engine.
        drain_seconds: how long an unload waits for requests in flight.
    """

    def __init__(
        self,
        arguments: HostArguments,
        metrics: EngineMetrics,
        *,
        load_engine: LoadEngine = CausalLMEngine.load,
        drain_seconds: float = _DRAIN_SECONDS,
    ) -> None:
        self._arguments = arguments
        self._metrics = SharedMetrics(metrics)
        self._load_engine = load_engine
        self._drain_seconds = drain_seconds
        self._turn = FairLock()
        self._changed = threading.Condition()
        self._resident: dict[str, _Resident] = {}
        self._loading: dict[str, _Loading] = {}

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request or an operation and return before it is done; a bad one is answered with its failure."""
        with answering_failures(responder):
            if OPERATION in tensors:
                self._start_operation(tensors, responder)
            else:
                self._compute(tensors, responder)

    def close(self) -> None:
        """Unload everything at once; what is in flight fails."""
        with self._changed:
            resident = list(self._resident.values())
            self._resident.clear()
        for each in resident:
            each.engine.close()

    def _compute(self, tensors: Tensors, responder: Responder) -> None:
        name = next(iter(decoded_texts(tensors, CHECKPOINT)), "")
        with self._changed:
            resident = self._resident.get(name)
            if resident is None:
                raise InferenceFailure(
                    f"checkpoint {name!r} is not loaded",
                    reason="MODEL_NOT_LOADED",
                    code="NOT_FOUND",
                    metadata={"checkpoint": name},
                )
            resident.in_flight += 1
        counted = _CountedResponder(responder, lambda: self._ended(resident))
        with answering_failures(counted):
            resident.engine.submit(tensors, counted)

    def _ended(self, resident: _Resident) -> None:
        with self._changed:
            resident.in_flight -= 1
            self._changed.notify_all()

    def _start_operation(self, tensors: Tensors, responder: Responder) -> None:
        key = next(iter(decoded_texts(tensors, CONTROL_KEY)), "") if CONTROL_KEY in tensors else ""
        if not self._arguments.allows(key):
            raise InferenceFailure(
                "loading, unloading and listing checkpoints needs the host's model-control key",
                reason="MODEL_CONTROL_REFUSED",
                code="PERMISSION_DENIED",
            )
        operation = parse_operation(next(iter(decoded_texts(tensors, OPERATION)), ""))
        if operation.kind == "list":
            self._answer(responder)
            return
        # Not in the caller's thread, which is the only one that takes requests, and not in an engine's.
        threading.Thread(
            target=self._run_operation, args=(operation, responder), name=f"{operation.kind} checkpoint", daemon=True
        ).start()

    def _run_operation(self, operation: Operation, responder: Responder) -> None:
        try:
            if operation.arguments is not None:
                self._load(operation.name, operation.arguments)
            else:
                self._unload(operation.name)
        except InferenceFailure as failure:
            responder.fail(failure)
        except Exception:  # a thread's end: the caller must get an answer
            _logger.exception("operation_failed")
            responder.fail(
                InferenceFailure(f"the host failed to {operation.kind}", reason="ENGINE_FAILED", code="INTERNAL")
            )
        else:
            self._answer(responder)

    def _answer(self, responder: Responder) -> None:
        with self._changed:
            names = tuple(sorted(self._resident))
        responder.finish({REPORT: texts(HostReport(names, device_memory_bytes()).to_json())})

    def _load(self, name: str, arguments: CausalLMArguments) -> None:
        """Load a checkpoint; a name that is loaded keeps its first one, and loads of one name are done once."""
        with self._changed:
            if name in self._resident:
                return
            loading = self._loading.get(name)
            is_first = loading is None
            if loading is None:
                loading = self._loading[name] = _Loading()
        if not is_first:
            loading.ended.wait()
            if loading.failure is not None:
                raise loading.failure
            return
        try:
            engine = self._load_engine(arguments, self._metrics.of_engine(name), self._turn)
            with self._changed:
                self._resident[name] = _Resident(engine)
        except InferenceFailure as failure:
            loading.failure = failure
            self._metrics.forget(name)
            release_free_memory()
            raise
        except BaseException:
            loading.failure = InferenceFailure("the load failed", reason="ENGINE_FAILED", code="INTERNAL")
            raise
        finally:
            with self._changed:
                del self._loading[name]
            loading.ended.set()

    def _unload(self, name: str) -> None:
        """Unload a checkpoint when its requests in flight are answered; an unknown name is no error."""
        with self._changed:
            loading = self._loading.get(name)
        if loading is not None:
            loading.ended.wait()
        if self._close_drained(name):
            # Only here, where nothing refers to the engine any more.
            self._metrics.forget(name)
            release_free_memory()

    def _close_drained(self, name: str) -> bool:
        with self._changed:
            resident = self._resident.pop(name, None)
            if resident is None:
                return False
            self._changed.wait_for(lambda: resident.in_flight == 0, timeout=self._drain_seconds)
        resident.engine.close()
        return True


class _CountedResponder:
    """Tells the host when a request has ended."""

    def __init__(self, responder: Responder, ended: Callable[[], None]) -> None:
        self._responder = responder
        self._ended: Callable[[], None] | None = ended

    def send(self, tensors: Tensors) -> None:
        self._responder.send(tensors)

    def finish(self, tensors: Tensors | None = None) -> None:
        self._responder.finish(tensors)
        self._end()

    def fail(self, failure: InferenceFailure) -> None:
        self._responder.fail(failure)
        self._end()

    def is_cancelled(self) -> bool:
        return self._responder.is_cancelled()

    def _end(self) -> None:
        if self._ended is not None:
            self._ended()
            self._ended = None
