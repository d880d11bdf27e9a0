"""Registers checkpoints: which id they get, and whether it is free for their content."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from services.generation.checkpoints import Checkpoint, Content, ContentDigests, Fingerprint, read_checkpoint
from services.generation.errors import ModelExistsError
from services.generation.foreign.errors import ForeignTargetRefusedError
from services.generation.foreign.registration import ForeignModels, same_foreign_model
from services.generation.foreign.target import ForeignTarget
from services.generation.lifecycle import ModelLifecycle
from services.generation.models import DTYPES, ModelRecord, ModelState, default_model_id
from services.generation.registry import CreateRequest, ModelRegistry
from services.generation.sources import CheckpointSources, Fetched, Source, is_remote
from services.runtime.deadlines import child_timeout
from services.runtime.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError

_DEFAULT_DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class Registration:
    """A request to register a checkpoint.

    Attributes:
        checkpoint_path: its folder, as the caller wrote it.
        model_id: ``None`` asks for one made from the folder's name and the digest.
        dtype: one of ``DTYPES``.
        request_id: makes a repetition of the request return the first one's model.
        engine: one of ``ENGINES``.
        adapter_path: folder or URL of a LoRA adapter; empty without one.
        hub_repo_id: a hub's repository in place of the path; empty for others.
        hub_revision: its branch, tag or commit; empty: main.
        foreign: a model of a foreign Triton, whose tokenizer the path or the hub then names; ``None`` for checkpoints.
    """

    checkpoint_path: str
    model_id: str | None = None
    dtype: str = "auto"
    request_id: str | None = None
    engine: str = "auto"
    adapter_path: str = ""
    hub_repo_id: str = ""
    hub_revision: str = ""
    foreign: ForeignTarget | None = None

    @property
    def source(self) -> Source:
        """Where the checkpoint comes from."""
        return Source(self.checkpoint_path, self.hub_repo_id, self.hub_revision, self.adapter_path)

    @property
    def parameters_digest(self) -> str:
        """What a repetition must have in common with the first request."""
        parameters = [self.checkpoint_path, self.model_id, self.dtype]
        # Left out where it is not chosen, so that requests remembered before there was a choice are still known.
        parameters += [self.engine] if self.engine != "auto" else []
        extra = [self.adapter_path, self.hub_repo_id, self.hub_revision]
        parameters += extra if any(extra) else []
        parameters += [self.foreign.to_json()] if self.foreign is not None else []
        return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RegistrationRules:
    """What may be registered, and how long a caller waits.

    Attributes:
        roots: folders below which checkpoints may lie.
        auto_dtype: what dtype ``auto`` stands for: float32, or the number type of the checkpoint's weights.
        create_wait_seconds: a model that is not READY by then is returned LOADING.
        auto_engine: what engine ``auto`` stands for.
    """

    roots: Sequence[Path]
    auto_dtype: Literal["float32", "checkpoint"] = "float32"
    create_wait_seconds: float = 10.0
    auto_engine: Literal["transformers", "vllm"] = "transformers"


class ModelRegistrar:
    """Makes models out of checkpoint folders."""

    def __init__(
        self,
        registry: ModelRegistry,
        lifecycle: ModelLifecycle,
        digests: ContentDigests,
        rules: RegistrationRules,
        sources: CheckpointSources | None = None,
        foreign_models: ForeignModels | None = None,
    ) -> None:
        self._foreign_models = foreign_models
        self._registry = registry
        self._lifecycle = lifecycle
        self._digests = digests
        self._rules = rules
        self._sources = sources

    async def create(self, registration: Registration) -> ModelRecord:
        """Register and load a checkpoint; return it READY, or LOADING when that takes long.

        The same content under the same id is the model that exists already; if that had failed, it is loaded again.

        Raises:
            CheckpointPathError: the path is outside the roots, or names no folder.
            FleetError: the checkpoint cannot be used; the message says how to mend it.
            ModelExistsError: the id is taken by other content.
            ModelFailedError: the inference server could not load it.
        """
        started = asyncio.get_running_loop().time()
        model_id = self._repeated(registration)
        if model_id is None and registration.foreign is not None:
            model_id = await self._register_foreign(registration, registration.foreign)
        elif model_id is None:
            fetched = await self._fetched(registration.source)
            checkpoint = await asyncio.to_thread(
                read_checkpoint, fetched.checkpoint_path, self._rules.roots, fetched.adapter_path
            )
            model_id = await self._register(registration, checkpoint, fetched)
        elapsed_seconds = asyncio.get_running_loop().time() - started
        return await self._lifecycle.settle(
            model_id, wait_seconds=max(0.0, self._rules.create_wait_seconds - elapsed_seconds)
        )

    def _repeated(self, registration: Registration) -> str | None:
        """Return the id of the model that an earlier request with the same request id made."""
        earlier = self._registry.find_request(registration.request_id) if registration.request_id else None
        if earlier is None:
            return None
        if earlier.parameters_digest != registration.parameters_digest:
            message = "was used for another request; choose a new UUID, or repeat the first request unchanged"
            raise InvalidArgumentError(
                f"request_id {registration.request_id} {message}",
                reason="REQUEST_ID_REUSED",
                field_violations=(FieldViolation("request_id", message),),
            )
        return earlier.model_id

    async def _fetched(self, source: Source) -> Fetched:
        if self._sources is None:
            return Fetched(source, source.checkpoint_path, source.adapter_path, Path(source.checkpoint_path).name)
        return await self._sources.fetch(source)

    async def _register(self, registration: Registration, checkpoint: Checkpoint, fetched: Fetched) -> str:
        dtype = self._dtype(registration.dtype, checkpoint)
        engine = self._rules.auto_engine if registration.engine == "auto" else registration.engine
        content = Content("", Fingerprint())
        model_id = registration.model_id
        if model_id is None:
            content = await self._digest_in_time(checkpoint, dtype)
            model_id = self._holder(content.digest, engine) or default_model_id(
                fetched.name if is_remote(fetched.source) else checkpoint.path.name, content.digest
            )
        candidate = ModelRecord(
            model_id=model_id,
            checkpoint_path=str(checkpoint.path),
            state=ModelState.LOADING,
            failure="",
            architecture=checkpoint.facts.architecture,
            dtype=dtype,
            context_tokens=checkpoint.facts.context_tokens or 0,
            weight_bytes=checkpoint.facts.weight_bytes,
            create_time=datetime.now(UTC),
            adapter_path=str(checkpoint.adapter or ""),
            source=fetched.source.to_json() if is_remote(fetched.source) else "",
            parameter_count=checkpoint.facts.parameter_count,
            engine=engine,
            **content._asdict(),
        )
        async with self._lifecycle.lock(model_id):
            existing = self._registry.find(model_id)
            record = candidate if existing is None else await self._same_content(existing, candidate, checkpoint)
            await self._keep(record, existing, registration)
        return model_id

    async def _register_foreign(self, registration: Registration, target: ForeignTarget) -> str:
        if self._foreign_models is None:
            raise ForeignTargetRefusedError(target.target)
        candidate = await self._foreign_models.candidate(target, registration.source, registration.model_id)
        async with self._lifecycle.lock(candidate.model_id):
            existing = self._registry.find(candidate.model_id)
            record = candidate if existing is None else same_foreign_model(existing, candidate)
            await self._keep(record, existing, registration)
        return candidate.model_id

    async def _keep(self, record: ModelRecord, existing: ModelRecord | None, registration: Registration) -> None:
        request_id = registration.request_id
        request = CreateRequest(request_id, registration.parameters_digest, record.model_id) if request_id else None
        if record is not existing or request is not None:
            await self._registry.put(record, request)

    def _holder(self, digest: str, engine: str) -> str | None:
        """Return the id of the model that holds this content already, from whatever folder it came."""
        held = (each.model_id for each in self._registry.records() if (each.digest, each.engine) == (digest, engine))
        return next(held, None)

    async def _same_content(self, existing: ModelRecord, candidate: ModelRecord, checkpoint: Checkpoint) -> ModelRecord:
        """Return the record to keep for the existing model.

        Raises:
            ModelExistsError: the candidate has other content.
        """
        if existing.engine != candidate.engine:
            raise ModelExistsError(
                f"models/{existing.model_id} is computed by the engine {existing.engine}; delete that model first, or "
                f"choose another model_id for {candidate.engine}",
                metadata={"model": existing.model_id, "engine": existing.engine, "requested_engine": candidate.engine},
            )
        same_files = _files(existing) == _files(candidate)
        if not (same_files and existing.fingerprint == checkpoint.fingerprint):
            content = await self._digest_in_time(checkpoint, candidate.dtype)
            # An empty digest is being computed right now; waiting for the same files' digest joins that computation.
            known = existing.digest or (await self._digests.digest(*_files(existing)))[0]
            if content.digest != known:
                raise ModelExistsError(
                    f"models/{existing.model_id} holds other content: digest {known} from {existing.checkpoint_path} "
                    f"in {existing.dtype}; this checkpoint in {candidate.dtype} has {content.digest}. Delete that "
                    "model first, or choose another model_id",
                    metadata={"model": existing.model_id, "digest": known, "requested_digest": content.digest},
                )
            if existing.state is ModelState.FAILED:
                # Its own folder may be the reason: go on with the one that was just checked.
                existing = replace(
                    existing,
                    checkpoint_path=candidate.checkpoint_path,
                    adapter_path=candidate.adapter_path,
                    source=candidate.source,
                    **content._asdict(),
                )
        if existing.state is ModelState.FAILED:
            return replace(existing, state=ModelState.LOADING, failure="")
        return existing

    async def _digest_in_time(self, checkpoint: Checkpoint, dtype: str) -> Content:
        try:
            async with asyncio.timeout(child_timeout(3600.0)):
                return await self._digests.digest(checkpoint.path, dtype, checkpoint.adapter)
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"{checkpoint.path} is still being hashed; repeat the call (hashing goes on), or give a model_id that "
                "is free: then CreateModel needs not wait for the digest",
                reason="CHECKPOINT_BEING_HASHED",
            ) from error

    def _dtype(self, requested: str, checkpoint: Checkpoint) -> str:
        if requested != "auto":
            return requested
        stated = checkpoint.facts.dtype
        return stated if self._rules.auto_dtype == "checkpoint" and stated in DTYPES else _DEFAULT_DTYPE


def _files(record: ModelRecord) -> tuple[Path, str, Path | None]:
    """Return what a model's digest is computed from."""
    return Path(record.checkpoint_path), record.dtype, Path(record.adapter_path) if record.adapter_path else None
