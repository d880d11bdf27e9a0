"""Compares the registry with the inference server, over and over, and mends what differs."""

import asyncio
import sqlite3
from collections.abc import Set
from datetime import UTC, datetime
from typing import Any

import structlog

from services.generation.activation import Activations
from services.generation.backend import InferenceBackend
from services.generation.known_models import KnownModels
from services.generation.loading import CheckpointLoader
from services.generation.models import ModelState
from services.generation.residency import ModelMemory
from services.generation.retention import RetentionPolicy, models_to_forget
from services.runtime.errors import FleetError


class Reconciler:
    """Loads what should be loaded and is not, unloads what nobody wants, forgets what nobody used.

    Models are loaded one after the other, so that requested ones need not queue for it.

    Args:
        known: the models.
        activations: load them.
        backend: tells what is loaded.
        loader: unloads.
        memory: what is booked for them.
        interval_seconds: pause between two comparisons.
        list_timeout_seconds: time for asking what is loaded.
        retention: how long models that are not loaded stay registered.
    """

    def __init__(
        self,
        known: KnownModels,
        activations: Activations,
        backend: InferenceBackend,
        loader: CheckpointLoader,
        memory: ModelMemory,
        *,
        interval_seconds: float,
        list_timeout_seconds: float,
        retention: RetentionPolicy,
    ) -> None:
        self._known = known
        self._activations = activations
        self._backend = backend
        self._loader = loader
        self._memory = memory
        self._interval_seconds = interval_seconds
        self._list_timeout_seconds = list_timeout_seconds
        self._retention = retention
        self._log: Any = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self._forget_unused()
                await self._reconcile()
            except (FleetError, OSError, sqlite3.Error) as error:
                self._log.warning("reconcile_failed", error=str(error))
            await asyncio.sleep(self._interval_seconds)

    async def _reconcile(self) -> None:
        if not await self._backend.is_ready():
            return
        # What is loaded is only known for the moment of asking: models that moved on since are left to the next round.
        before = {each.model_id: (each, self._activations.epoch(each.model_id)) for each in self._known.records()}
        dropped = frozenset(self._activations.dropped)
        loaded = await self._backend.loaded_names(timeout_seconds=self._list_timeout_seconds)
        for name in dropped:
            await self._unload_dropped(name, loaded)
        for model_id, (record, epoch) in before.items():
            if record.state in (ModelState.FAILED, ModelState.EVICTED) or self._activations.is_running(model_id):
                continue
            if self._memory.is_leaving(model_id):
                continue
            if (self._known.registry.find(model_id), self._activations.epoch(model_id)) != (record, epoch):
                continue
            if record.state is ModelState.LOADING or record.deployment.name not in loaded:
                await asyncio.wait([self._activations.start(model_id)])

    async def _unload_dropped(self, name: str, loaded: Set[str]) -> None:
        deployment = self._activations.dropped.get(name)
        if deployment is None or self._memory.is_leaving(deployment.model_id):
            return  # wanted again, or being unloaded just now
        if self._activations.is_running(deployment.model_id):
            return
        record = self._known.find(deployment.model_id)
        if record is not None and record.state is ModelState.READY and record.deployment.name == name:
            del self._activations.dropped[name]  # giving it up failed, and it was kept
            return
        if name in loaded:
            await self._loader.unload(name)
        if self._activations.dropped.get(name) is not deployment:
            return
        record = self._known.find(deployment.model_id)
        if record is not None and record.state is ModelState.EVICTED:
            self._memory.release(deployment.model_id)
        if name in loaded or deployment.is_outdated():
            del self._activations.dropped[name]

    async def _forget_unused(self) -> None:
        for model_id in models_to_forget(self._known.records(), self._retention, datetime.now(UTC)):
            async with self._known.lock(model_id):
                record = self._known.registry.find(model_id)
                is_unused = record is not None and record.state in (ModelState.EVICTED, ModelState.FAILED)
                if is_unused and not self._activations.is_running(model_id):
                    await self._known.registry.remove(model_id)
                    self._activations.forget(model_id)
                    self._log.info("model_forgotten", model=model_id)
