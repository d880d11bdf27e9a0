"""Brings one registered checkpoint into the inference server, and makes sure that it is the one that was registered."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from services.generation.backend import Deployment, InferenceBackend
from services.generation.checkpoints import (
    ContentDigests,
    changed_checkpoint,
    locate_checkpoint,
    locate_tokenizer,
    read_fingerprint,
)
from services.generation.errors import ModelFailedError, ModelLostError
from services.generation.foreign.tokenizer import tokenizer_digest
from services.generation.models import ModelRecord
from services.generation.sources import CheckpointSources
from services.runtime.errors import DeadlineExceededError, FleetError

_LOAD_ATTEMPTS = 3
_FIRST_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class LoadingLimits:
    """Bounds of loading.

    Attributes:
        load_timeout_seconds: time for one checkpoint.
        unload_timeout_seconds: time for unloading one; much more than the half minute that the engine host gives its
            requests in flight.
        concurrent_loads: checkpoints that are loaded at once.
    """

    load_timeout_seconds: float = 600.0
    unload_timeout_seconds: float = 120.0
    concurrent_loads: int = 2


class CheckpointLoader:
    """Verifies and loads checkpoints.

    Attributes:
        server_reachable: whether the inference server took requests when a load last asked.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        digests: ContentDigests,
        roots: Sequence[Path],
        limits: LoadingLimits,
        sources: CheckpointSources | None = None,
    ) -> None:
        self._backend = backend
        self._digests = digests
        self._roots = tuple(roots)
        self._limits = limits
        self._sources = sources
        self.server_reachable = True
        self._slots = asyncio.Semaphore(limits.concurrent_loads)

    async def verify(self, record: ModelRecord) -> ModelRecord:
        """Return ``record`` with its digest, after making sure that its files are (still) those that it stands for.

        Raises:
            CheckpointPathError: the folder is gone, or no longer below a root.
            CheckpointError: CHECKPOINT_CHANGED.
        """
        if self._sources is not None:
            record = await self._sources.restored(record)
        if (foreign := record.foreign) is not None:
            folder = await asyncio.to_thread(locate_tokenizer, record.checkpoint_path, self._roots)
            digest = foreign.digest(await asyncio.to_thread(tokenizer_digest, folder))
            if record.digest not in ("", digest):
                raise changed_checkpoint(folder)
            return replace(record, digest=digest)
        folder = await asyncio.to_thread(locate_checkpoint, record.checkpoint_path, self._roots)
        adapter = Path(record.adapter_path) if record.adapter_path else None
        if adapter is not None:
            await asyncio.to_thread(locate_checkpoint, record.adapter_path, self._roots)
        if record.digest and await asyncio.to_thread(read_fingerprint, folder, adapter) == record.fingerprint:
            return record
        content = await self._digests.digest(folder, record.dtype, adapter)
        if record.digest not in ("", content.digest):
            raise changed_checkpoint(folder)
        return replace(record, **content._asdict())

    async def load(self, record: ModelRecord, *, restart: bool) -> ModelRecord:
        """Load a verified checkpoint, waiting for the inference server as long as it takes.

        Args:
            record: what to load.
            restart: unload first, because the engine that serves the name is dead.

        Raises:
            ModelFailedError: it takes too long, or takes the server down.
            CheckpointError: CHECKPOINT_CHANGED while it was loaded; it is unloaded again.
            FleetError: the inference server's reason to refuse it.
        """
        deployment = record.deployment
        for _ in range(_LOAD_ATTEMPTS):
            if deployment.foreign is None:
                await self._server_ready()
            async with self._slots:
                try:
                    if restart:
                        await self.unload(deployment.name)
                    await self._load(deployment)
                    break
                except ModelLostError as error:
                    structlog.get_logger(__name__).warning(
                        "model_load_interrupted", model=record.model_id, error=str(error)
                    )
        else:
            raise ModelFailedError(
                f"the inference server went away {_LOAD_ATTEMPTS} times while it loaded {deployment.checkpoint_path}; "
                "look into its log, it may lack memory for this checkpoint"
            )
        try:
            return await self.verify(record)
        except FleetError:
            await self.unload(deployment.name)
            raise

    async def unload(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Unload a deployment; an unknown name is no error."""
        limit = self._limits.unload_timeout_seconds
        await self._backend.unload(name, timeout_seconds=limit if timeout_seconds is None else timeout_seconds)

    async def _load(self, deployment: Deployment) -> None:
        limit = self._limits.load_timeout_seconds
        try:
            await self._backend.load(deployment, timeout_seconds=limit)
        except DeadlineExceededError as error:
            await self.unload(deployment.name)
            raise ModelFailedError(
                f"{deployment.checkpoint_path} was not loaded within {limit:g} s; allow more with "
                "EVALFLEET_LOAD_TIMEOUT_SECONDS"
            ) from error

    async def _server_ready(self) -> None:
        pause_seconds = _FIRST_POLL_SECONDS
        while True:
            self.server_reachable = await self._backend.is_ready()
            if self.server_reachable:
                return
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_POLL_SECONDS)
