"""Brings registered models to READY, one task each, and takes others out of memory for them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from services.generation.errors import ModelControlRefusedError, ModelLostError
from services.generation.known_models import KnownModels
from services.generation.load_records import LoadRecords
from services.generation.loading import CheckpointLoader
from services.generation.models import ModelRecord, ModelState
from services.generation.residency import ModelMemory
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, UnavailableError

_LONGEST_FAILURE_CHARACTERS: Final = 500
_REMEMBERED_SECONDS: Final = 3600.0
"""How long the inference server may take for a load whose caller has left."""


@dataclass(frozen=True, slots=True)
class DroppedDeployment:
    """A deployment that nobody wants any more, and that the inference server may nevertheless have, or come to have.

    Attributes:
        model_id: whose it is.
        dropped_at: when it was given up, on the clock of ``time.monotonic``.
    """

    model_id: str
    dropped_at: float

    def is_outdated(self) -> bool:
        """Return whether the server would have it by now."""
        return time.monotonic() - self.dropped_at > _REMEMBERED_SECONDS


class Activations:
    """The tasks that load models; everybody who needs a model waits for its task.

    Args:
        known: the models.
        loader: loads them.
        memory: what they take; the least recently used ones leave for others.
        records: of what came of it; ``None``: nowhere.

    Attributes:
        dropped: by name, the deployments that are to be unloaded when the server has them.
    """

    def __init__(
        self, known: KnownModels, loader: CheckpointLoader, memory: ModelMemory, records: LoadRecords | None = None
    ) -> None:
        self._known = known
        self._registry = known.registry
        self._loader = loader
        self._memory = memory
        self._records = records
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._epochs: dict[str, int] = {}
        self.dropped: dict[str, DroppedDeployment] = {}
        self._log: Any = structlog.get_logger(__name__)

    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """Return those that run."""
        return tuple(self._tasks.values())

    def epoch(self, model_id: str) -> int:
        """Return how often this process has loaded a model."""
        return self._epochs.get(model_id, 0)

    def is_running(self, model_id: str) -> bool:
        """Return whether a model is being loaded."""
        task = self._tasks.get(model_id)
        return task is not None and not task.done()

    def start(self, model_id: str, *, restart: bool = False) -> asyncio.Task[None]:
        """Load a model, or return the task that already does.

        Args:
            model_id: which.
            restart: unload first, because the engine that serves it is dead.
        """
        running = self._tasks.get(model_id)
        if running is None or running.done():
            # Loading outlives the call that asked for it.
            with bind_deadline(None):
                running = asyncio.create_task(self._run(model_id, restart), name=f"load {model_id}")
            self._tasks[model_id] = running
            running.add_done_callback(lambda task: self._ended(model_id, task))
        return running

    async def stop(self, model_id: str) -> bool:
        """Cancel the loading of a model; returns whether it was being loaded."""
        task = self._tasks.get(model_id)
        if task is None:
            return False
        task.cancel()
        await asyncio.wait([task])
        return True

    def forget(self, model_id: str) -> None:
        """Drop all that is known of a model that is no longer registered."""
        self._memory.forget(model_id)
        self._epochs.pop(model_id, None)

    def drop(self, record: ModelRecord) -> None:
        """Remember that a model's deployment is not wanted, until ``dropped`` no longer has it."""
        self.dropped[record.deployment.name] = DroppedDeployment(record.model_id, time.monotonic())

    def _ended(self, model_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(model_id) is task:
            del self._tasks[model_id]
        self._memory.notify()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning("model_activation_failed", model=model_id, error=str(error) or type(error).__name__)

    async def _run(self, model_id: str, restart: bool) -> None:
        record = replace(self._known.still(model_id), state=ModelState.LOADING, failure="")
        try:
            await self._registry.put(record)
            try:
                record = await self._loader.verify(record)
                await self._registry.put(record)
                await self._admit(record)
                self.dropped.pop(record.deployment.name, None)
                record = await self._loader.load(record, restart=restart)
            except (UnavailableError, ModelControlRefusedError):
                raise  # no fault of the model: it stays LOADING, and the loop tries again
            except FleetError as error:
                self._memory.release(model_id)
                failure = " ".join(error.message.split())[:_LONGEST_FAILURE_CHARACTERS]
                await self._registry.put(replace(record, state=ModelState.FAILED, failure=failure))
                self._log.warning("model_failed", model=model_id, reason=error.reason, failure=failure)
                if self._records is not None:
                    self._records.failed(record, error)
                return
            self._epochs[model_id] = self.epoch(model_id) + 1
            self._memory.touch(model_id)
            await self._registry.put(replace(record, state=ModelState.READY, last_use_time=datetime.now(UTC)))
        except BaseException:
            # Whatever it was: a booking that stays would keep others out, and nobody would ever return it.
            self._memory.release(model_id)
            raise
        self._log.info("model_ready", model=model_id, deployment=record.deployment.name)
        if self._records is not None:
            self._records.loaded(record)

    async def _admit(self, record: ModelRecord) -> None:
        """Book the memory of a model.

        Raises:
            UnavailableError: MODEL_LOADING, another model does not leave; this one has not failed.
        """
        try:
            await self._memory.admit(record, self._ready_records, self._evict)
        except (UnavailableError, ModelControlRefusedError):
            raise
        except FleetError as error:
            raise UnavailableError(
                f"there is no room yet for models/{record.model_id}: {error.message}",
                reason="MODEL_LOADING",
                retry_after_seconds=2.0,
            ) from error

    def _ready_records(self) -> Sequence[ModelRecord]:
        return [
            each
            for each in self._known.records()
            if each.state is ModelState.READY and not self.is_running(each.model_id)
        ]

    async def _evict(self, chosen: ModelRecord) -> bool:
        """Unload a model without forgetting it; returns whether it has left.

        It was chosen before its requests were waited for: by now it may be deleted, lost, or another under its id.
        """
        current = self._known.find(chosen.model_id)
        if (
            current is None
            or current.state is not ModelState.READY
            or current.digest != chosen.digest
            or self.is_running(chosen.model_id)
        ):
            return False
        name = current.deployment.name
        self.drop(current)
        await self._registry.put(replace(current, state=ModelState.EVICTED, last_use_time=datetime.now(UTC)))
        try:
            await self._loader.unload(name)
            self.dropped.pop(name, None)
        except ModelLostError as error:
            # With its server it is gone from memory, too; if it should come back, the loop unloads it.
            self._log.warning("eviction_unfinished", model=current.model_id, error=error.message)
        except FleetError as error:
            # It may be there still, and stays booked until the loop has unloaded it.
            self._log.warning("eviction_unfinished", model=current.model_id, error=error.message)
            raise
        self._log.info("model_evicted", model=current.model_id)
        return True
