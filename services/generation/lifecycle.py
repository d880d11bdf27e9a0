"""The life of registered models: created, loaded, lost and loaded again, deleted."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.generation.activation import Activations
from services.generation.backend import InferenceBackend
from services.generation.errors import ModelFailedError, ModelLostError, ModelNotReadyError
from services.generation.known_models import KnownModels
from services.generation.load_records import LoadRecords
from services.generation.loading import CheckpointLoader
from services.generation.models import ModelRecord, ModelState
from services.generation.reconciling import Reconciler
from services.generation.registry import ModelRegistry
from services.generation.residency import MemoryLimits, ModelMemory
from services.generation.retention import RetentionPolicy
from services.runtime.deadlines import child_timeout


@dataclass(frozen=True, slots=True)
class LifecycleLimits:
    """Bounds of waiting for models.

    Attributes:
        ready_wait_seconds: longest that a request waits for its model, if its deadline allows as much.
        unload_timeout_seconds: time for unloading a model; one that is being loaded is loaded to the end first.
        list_timeout_seconds: time for asking what is loaded.
        reconcile_interval_seconds: pause between two comparisons of the registry with the inference server.
        memory: what the loaded models may take together.
        retention: how long models that are not loaded stay registered.
    """

    ready_wait_seconds: float = 30.0
    unload_timeout_seconds: float = 120.0
    list_timeout_seconds: float = 10.0
    reconcile_interval_seconds: float = 2.0
    memory: MemoryLimits = field(default_factory=MemoryLimits)
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)


@dataclass(frozen=True, slots=True)
class ServingModel:
    """A model that takes requests.

    Attributes:
        record: what is registered.
        epoch: counts its loads, so that a late report of a loss does not hit the engine loaded since.
    """

    record: ModelRecord
    epoch: int


class ModelLifecycle:
    """Keeps the registered models loaded, as far as they fit into memory.

    One activation task per model brings it to READY or FAILED; everybody who needs the model waits for that task.
    Activations start when a model is created, when a request finds it lost, and from a loop that compares the
    registry with the inference server, one model after the other, so that requested models need not queue for it.
    A model that is needed takes the memory of the least recently used ones, which are EVICTED until they are needed.

    Attributes:
        memory: what the loaded models take.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        backend: InferenceBackend,
        loader: CheckpointLoader,
        limits: LifecycleLimits,
        records: LoadRecords | None = None,
    ) -> None:
        self._known = KnownModels(registry)
        self._backend = backend
        self._loader = loader
        self._limits = limits
        self.memory = ModelMemory(
            limits.memory, lambda: backend.memory_bytes(timeout_seconds=limits.list_timeout_seconds)
        )
        self._activations = Activations(self._known, loader, self.memory, records)
        self._reconciler = Reconciler(
            self._known,
            self._activations,
            backend,
            loader,
            self.memory,
            interval_seconds=limits.reconcile_interval_seconds,
            list_timeout_seconds=limits.list_timeout_seconds,
            retention=limits.retention,
        )
        self._reconciling: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)

    async def start(self) -> None:
        """Begin to load what was loaded last and is not now, and keep it so until ``close``."""
        for record in sorted(self._known.records(), key=lambda each: each.last_used):
            if record.state is ModelState.READY:
                self.memory.book(record)
                self._backend.adopt(record.deployment)
        self._reconciling = asyncio.create_task(self._reconciler.run(), name="reconcile models")

    async def close(self) -> None:
        """Stop all background work; loaded models stay loaded."""
        tasks = [*self._activations.tasks(), *([self._reconciling] if self._reconciling else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def get(self, model_id: str) -> ModelRecord:
        """Return a model.

        Raises:
            NotFoundError: MODEL_NOT_FOUND, with the nearest id.
        """
        return self._known.get(model_id)

    def records(self) -> Sequence[ModelRecord]:
        """Return all models, ordered by id."""
        return self._known.records()

    def lock(self, model_id: str) -> asyncio.Lock:
        """Return the lock under which a model comes into being or goes."""
        return self._known.lock(model_id)

    async def settle(self, model_id: str, *, wait_seconds: float) -> ModelRecord:
        """Load a model if need be, and return it when it is READY or, still LOADING, after ``wait_seconds``.

        Raises:
            ModelFailedError: it cannot be loaded.
            FleetError: the inference server refuses all loading.
        """
        record = self._known.get(model_id)
        if record.state is ModelState.READY and not self._activations.is_running(model_id):
            return record
        task = self._activations.start(model_id)
        await asyncio.wait([task], timeout=child_timeout(wait_seconds))
        record = self._known.still(model_id)
        if task.done() and record.state is ModelState.LOADING and not task.cancelled() and task.exception():
            task.result()
        return _not_failed(record)

    async def ready(self, model_id: str) -> ServingModel:
        """Return a model that takes requests, waiting while it is loaded.

        Raises:
            NotFoundError: there is no such model.
            ModelFailedError: it cannot be loaded.
            ModelNotReadyError: it is not loaded in time; come back later.
        """
        record = _not_failed(self._known.get(model_id))
        if self._takes_requests(record):
            return ServingModel(record, self._activations.epoch(model_id))
        wait_seconds = child_timeout(self._limits.ready_wait_seconds)
        record = await self._settled_again(model_id)
        if not self._takes_requests(record):
            reachable = self._loader.server_reachable
            raise ModelNotReadyError(
                f"models/{model_id} is still being loaded; try again"
                if reachable
                else f"the inference server is not ready, so models/{model_id} cannot answer; try again",
                reason="MODEL_LOADING" if reachable else "INFERENCE_UNAVAILABLE",
                model_id=model_id,
                is_cut_short=wait_seconds < self._limits.ready_wait_seconds,
            )
        return ServingModel(record, self._activations.epoch(model_id))

    def using(self, model: ServingModel) -> AbstractContextManager[None]:
        """Keep a model loaded while a request is in flight; enter it as soon as ``ready`` has returned."""
        return self.memory.using(model.record.model_id)

    def _takes_requests(self, record: ModelRecord) -> bool:
        return (
            record.state is ModelState.READY
            and not self._activations.is_running(record.model_id)
            and not self.memory.is_leaving(record.model_id)
        )

    async def _settled_again(self, model_id: str) -> ModelRecord:
        """Wait for a model as long as a request may; one that makes room for others is waited for twice."""
        try:
            async with asyncio.timeout(child_timeout(self._limits.ready_wait_seconds)):
                while True:
                    await self.memory.until_left(model_id)
                    record = await self.settle(model_id, wait_seconds=self._limits.ready_wait_seconds)
                    if record.state is not ModelState.READY or self._takes_requests(record):
                        return record
        except TimeoutError:
            return self._known.still(model_id)

    def report_lost(self, model: ServingModel, error: ModelLostError) -> None:
        """Load a model again that did not answer; reports about an earlier load of it are ignored."""
        model_id = model.record.model_id
        if self._known.find(model_id) is None or self._activations.epoch(model_id) != model.epoch:
            return
        if not self._activations.is_running(model_id):
            self._log.warning("model_lost", model=model_id, reason=error.reason, error=error.message)
            self._activations.start(model_id, restart=error.engine_crashed)

    async def delete(self, model_id: str) -> None:
        """Unload and forget a model; its files are left alone.

        Raises:
            NotFoundError: there is no such model.
            ModelLostError: the inference server does not answer; the model stays registered.
        """
        async with self.lock(model_id):
            record = self._known.get(model_id)
            if not record.foreign_target and not await self._backend.is_ready():
                # Asked before anything is touched, so that whoever waits for the model goes on waiting.
                raise ModelLostError(f"the inference server is not ready, so models/{model_id} cannot be unloaded")
            self._known.deleting.add(model_id)
            try:
                was_loading = await self._activations.stop(model_id)
                record = self._known.registry.find(model_id) or record
                if record.digest:
                    await self._unload(record, is_loading=was_loading)
                await self._known.registry.remove(model_id)
                self._activations.forget(model_id)
                self._log.info("model_deleted", model=model_id)
            finally:
                self._known.deleting.discard(model_id)

    async def _unload(self, record: ModelRecord, *, is_loading: bool) -> None:
        name = record.deployment.name
        self._activations.drop(record)
        await self._loader.unload(name, timeout_seconds=child_timeout(self._limits.unload_timeout_seconds))
        if not is_loading:
            # A load whose caller has left is finished by the server on its own: such a one is looked for later.
            self._activations.dropped.pop(name, None)


def _not_failed(record: ModelRecord) -> ModelRecord:
    if record.state is ModelState.FAILED:
        raise ModelFailedError(
            f"models/{record.model_id} could not be loaded: {record.failure}",
            metadata={"model": record.model_id, "digest": record.digest},
        )
    return record
