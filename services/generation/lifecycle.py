"""The life of registered models: created, loaded, lost and loaded again, deleted."""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

import structlog

from services.generation.backend import InferenceBackend
from services.generation.errors import (
    ModelControlRefusedError,
    ModelDeletedError,
    ModelFailedError,
    ModelLostError,
    ModelNotReadyError,
)
from services.generation.loading import CheckpointLoader
from services.generation.models import ModelRecord, ModelState
from services.generation.registry import ModelRegistry
from services.generation.residency import MemoryLimits, ModelMemory
from services.generation.retention import RetentionPolicy, models_to_forget
from services.runtime.deadlines import bind_deadline, child_timeout
from services.runtime.errors import FleetError, UnavailableError, not_found

_LONGEST_FAILURE_CHARACTERS = 500


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
        self, registry: ModelRegistry, backend: InferenceBackend, loader: CheckpointLoader, limits: LifecycleLimits
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._loader = loader
        self._limits = limits
        self.memory = ModelMemory(
            limits.memory, lambda: backend.memory_bytes(timeout_seconds=limits.list_timeout_seconds)
        )
        self._activations: dict[str, asyncio.Task[None]] = {}
        self._epochs: dict[str, int] = {}
        self._deleting: set[str] = set()
        # Deployments deleted while they were being loaded: the server finishes such a load on its own.
        self._dropped: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._reconciling: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)

    async def start(self) -> None:
        """Begin to load what was loaded last and is not now, and keep it so until ``close``."""
        for record in self._registry.records():
            if record.state is ModelState.READY:
                self.memory.book(record)
        self._reconciling = asyncio.create_task(self._keep_reconciling(), name="reconcile models")

    async def close(self) -> None:
        """Stop all background work; loaded models stay loaded."""
        tasks = [*self._activations.values(), *([self._reconciling] if self._reconciling else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def get(self, model_id: str) -> ModelRecord:
        """Return a model.

        Raises:
            NotFoundError: MODEL_NOT_FOUND, with the nearest id.
        """
        record = self._registry.find(model_id)
        if record is None or model_id in self._deleting:
            known = (each.model_id for each in self.records())
            raise not_found("model", model_id, known)
        return record

    def records(self) -> Sequence[ModelRecord]:
        """Return all models, ordered by id."""
        return [record for record in self._registry.records() if record.model_id not in self._deleting]

    def lock(self, model_id: str) -> asyncio.Lock:
        """Return the lock under which a model comes into being or goes."""
        return self._locks.setdefault(model_id, asyncio.Lock())

    async def settle(self, model_id: str, *, wait_seconds: float) -> ModelRecord:
        """Load a model if need be, and return it when it is READY or, still LOADING, after ``wait_seconds``.

        Raises:
            ModelFailedError: it cannot be loaded.
            FleetError: the inference server refuses all loading.
        """
        record = self.get(model_id)
        if record.state is ModelState.READY and not self._is_activating(model_id):
            return record
        task = self._activate(model_id)
        await asyncio.wait([task], timeout=child_timeout(wait_seconds))
        record = self._found(model_id)
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
        record = _not_failed(self.get(model_id))
        if not self._takes_requests(record):
            record = await self._settled_again(model_id)
        if not self._takes_requests(record):
            reachable = self._loader.server_reachable
            raise ModelNotReadyError(
                f"models/{model_id} is still being loaded; try again"
                if reachable
                else f"the inference server is not ready, so models/{model_id} cannot answer; try again",
                reason="MODEL_LOADING" if reachable else "INFERENCE_UNAVAILABLE",
                metadata={"model": model_id},
                retry_after_seconds=2.0,
            )
        return ServingModel(record, self._epochs.get(model_id, 0))

    @contextmanager
    def using(self, model: ServingModel) -> Iterator[None]:
        """Keep a model loaded while a request is in flight; enter it as soon as ``ready`` has returned."""
        with self.memory.using(model.record.model_id):
            yield

    def _takes_requests(self, record: ModelRecord) -> bool:
        return (
            record.state is ModelState.READY
            and not self._is_activating(record.model_id)
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
            return self._found(model_id)

    def report_lost(self, model: ServingModel, error: ModelLostError) -> None:
        """Load a model again that did not answer; reports about an earlier load of it are ignored."""
        model_id = model.record.model_id
        current = self._registry.find(model_id)
        if current is None or model_id in self._deleting or self._epochs.get(model_id, 0) != model.epoch:
            return
        if not self._is_activating(model_id):
            self._log.warning("model_lost", model=model_id, reason=error.reason, error=error.message)
            self._activate(model_id, restart=error.engine_crashed)

    async def delete(self, model_id: str) -> None:
        """Unload and forget a model; its files are left alone.

        Raises:
            NotFoundError: there is no such model.
            ModelLostError: the inference server does not answer; the model stays registered.
        """
        async with self.lock(model_id):
            record = self.get(model_id)
            if not record.foreign_target and not await self._backend.is_ready():
                # Asked before anything is touched, so that whoever waits for the model goes on waiting.
                raise ModelLostError(f"the inference server is not ready, so models/{model_id} cannot be unloaded")
            self._deleting.add(model_id)
            try:
                activation = self._activations.get(model_id)
                if activation is not None:
                    activation.cancel()
                    await asyncio.wait([activation])
                    record = self._registry.find(model_id) or record
                if record.digest:
                    name = record.deployment.name
                    self._dropped.add(name)
                    await self._loader.unload(name, timeout_seconds=child_timeout(self._limits.unload_timeout_seconds))
                    if activation is None:
                        self._dropped.discard(name)
                await self._registry.remove(model_id)
                self.memory.forget(model_id)
                self._epochs.pop(model_id, None)
                self._log.info("model_deleted", model=model_id)
            finally:
                self._deleting.discard(model_id)

    def _found(self, model_id: str) -> ModelRecord:
        record = self._registry.find(model_id)
        if record is None or model_id in self._deleting:
            raise ModelDeletedError(f"models/{model_id} is being deleted")
        return record

    def _is_activating(self, model_id: str) -> bool:
        task = self._activations.get(model_id)
        return task is not None and not task.done()

    def _activate(self, model_id: str, *, restart: bool = False) -> asyncio.Task[None]:
        running = self._activations.get(model_id)
        if running is None or running.done():
            # Loading outlives the call that asked for it.
            with bind_deadline(None):
                running = asyncio.create_task(self._run_activation(model_id, restart), name=f"load {model_id}")
            self._activations[model_id] = running
            running.add_done_callback(lambda task: self._activation_ended(model_id, task))
        return running

    def _activation_ended(self, model_id: str, task: asyncio.Task[None]) -> None:
        if self._activations.get(model_id) is task:
            del self._activations[model_id]
        self.memory.notify()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning("model_activation_failed", model=model_id, error=str(error) or type(error).__name__)

    async def _run_activation(self, model_id: str, restart: bool) -> None:
        record = replace(self._found(model_id), state=ModelState.LOADING, failure="")
        await self._registry.put(record)
        try:
            record = await self._loader.verify(record)
            await self._registry.put(record)
            await self.memory.admit(record, self._ready_records, self._evict)
            self._dropped.discard(record.deployment.name)
            record = await self._loader.load(record, restart=restart)
        except (UnavailableError, ModelControlRefusedError):
            self.memory.release(model_id)
            raise  # no fault of the model: it stays LOADING, and the loop tries again
        except FleetError as error:
            self.memory.release(model_id)
            failure = " ".join(error.message.split())[:_LONGEST_FAILURE_CHARACTERS]
            await self._registry.put(replace(record, state=ModelState.FAILED, failure=failure))
            self._log.warning("model_failed", model=model_id, reason=error.reason, failure=failure)
            return
        self._epochs[model_id] = self._epochs.get(model_id, 0) + 1
        self.memory.touch(model_id)
        await self._registry.put(replace(record, state=ModelState.READY, last_use_time=datetime.now(UTC)))
        self._log.info("model_ready", model=model_id, deployment=record.deployment.name)

    def _ready_records(self) -> Sequence[ModelRecord]:
        return [
            each for each in self.records() if each.state is ModelState.READY and not self._is_activating(each.model_id)
        ]

    async def _evict(self, record: ModelRecord) -> None:
        """Unload a model without forgetting it."""
        await self._registry.put(replace(record, state=ModelState.EVICTED, last_use_time=datetime.now(UTC)))
        self._dropped.add(record.deployment.name)
        try:
            await self._loader.unload(record.deployment.name)
            self._dropped.discard(record.deployment.name)
        except ModelLostError as error:
            # With its server it is gone from memory, too; if it should come back, the loop unloads it.
            self._log.warning("eviction_unfinished", model=record.model_id, error=error.message)
        self._log.info("model_evicted", model=record.model_id)

    async def _forget_unused(self) -> None:
        for model_id in models_to_forget(self.records(), self._limits.retention, datetime.now(UTC)):
            async with self.lock(model_id):
                record = self._registry.find(model_id)
                is_unused = record is not None and record.state in (ModelState.EVICTED, ModelState.FAILED)
                if is_unused and not self._is_activating(model_id):
                    await self._registry.remove(model_id)
                    self.memory.forget(model_id)
                    self._epochs.pop(model_id, None)
                    self._log.info("model_forgotten", model=model_id)

    async def _keep_reconciling(self) -> None:
        while True:
            try:
                await self._forget_unused()
                await self._reconcile()
            except (FleetError, OSError, sqlite3.Error) as error:
                self._log.warning("reconcile_failed", error=str(error))
            await asyncio.sleep(self._limits.reconcile_interval_seconds)

    async def _reconcile(self) -> None:
        if not await self._backend.is_ready():
            return
        # What is loaded is only known for the moment of asking: models that moved on since are left to the next round.
        before = {record.model_id: (record, self._epochs.get(record.model_id)) for record in self.records()}
        loaded = await self._backend.loaded_names(timeout_seconds=self._limits.list_timeout_seconds)
        for name in self._dropped & loaded:
            await self._loader.unload(name)
        for model_id, (record, epoch) in before.items():
            if record.state in (ModelState.FAILED, ModelState.EVICTED) or self._is_activating(model_id):
                continue
            if self.memory.is_leaving(model_id):
                continue
            if (self._registry.find(model_id), self._epochs.get(model_id)) != (record, epoch):
                continue
            if record.state is ModelState.LOADING or record.deployment.name not in loaded:
                await asyncio.wait([self._activate(model_id)])


def _not_failed(record: ModelRecord) -> ModelRecord:
    if record.state is ModelState.FAILED:
        raise ModelFailedError(
            f"models/{record.model_id} could not be loaded: {record.failure}",
            metadata={"model": record.model_id, "digest": record.digest},
        )
    return record
