"""Makes models out of what somebody else deployed: looked at before anything is registered."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.generation.checkpoints import locate_tokenizer
from services.generation.errors import ModelExistsError
from services.generation.foreign.backend import ForeignTritons
from services.generation.foreign.target import ForeignTarget
from services.generation.foreign.tokenizer import ForeignTokenizer, tokenizer_digest
from services.generation.models import ModelRecord, ModelState, default_model_id
from services.generation.sources import CheckpointSources, Source, is_remote


class ForeignModels:
    """Finds out what is to be registered.

    Args:
        tritons: asks the servers.
        sources: fetches tokenizers.
        roots: folders below which tokenizers may lie.
    """

    def __init__(self, tritons: ForeignTritons, sources: CheckpointSources, roots: Sequence[Path]) -> None:
        self._tritons = tritons
        self._sources = sources
        self._roots = tuple(roots)

    async def candidate(self, target: ForeignTarget, source: Source, model_id: str | None) -> ModelRecord:
        """Return the record of a model that can be asked now.

        Raises:
            ForeignTargetRefusedError: its server is not on the allow-list.
            FleetError: its server, the model there, or the tokenizer is not in order.
        """
        await self._tritons.probe(target)
        fetched = await self._sources.fetch(replace(source, is_tokenizer=True))
        folder = await asyncio.to_thread(locate_tokenizer, fetched.checkpoint_path, self._roots)
        tokenizer = await asyncio.to_thread(ForeignTokenizer.load, folder)
        digest = target.digest(await asyncio.to_thread(tokenizer_digest, folder))
        return ModelRecord(
            model_id=model_id or default_model_id(target.model_name, digest),
            checkpoint_path=str(folder),
            digest=digest,
            state=ModelState.LOADING,
            failure="",
            architecture=tokenizer.facts.architecture,
            dtype="",
            context_tokens=tokenizer.facts.context_tokens,
            weight_bytes=0,
            create_time=datetime.now(UTC),
            engine=target.engine,
            source=fetched.source.to_json() if is_remote(fetched.source) else "",
            foreign_target=target.to_json(),
        )


def same_foreign_model(existing: ModelRecord, candidate: ModelRecord) -> ModelRecord:
    """Return the record to keep for a model that is registered again.

    Raises:
        ModelExistsError: the id is taken by another one.
    """
    if existing.digest != candidate.digest:
        raise ModelExistsError(
            f"models/{existing.model_id} is something else: digest {existing.digest}, this has {candidate.digest} (a "
            "foreign model's covers its address, name, version, protocol, revision and tokenizer). Delete that model "
            "first, or choose another model_id",
            metadata={"model": existing.model_id, "digest": existing.digest, "requested_digest": candidate.digest},
        )
    if existing.state is not ModelState.FAILED:
        return existing
    return replace(
        existing,
        state=ModelState.LOADING,
        failure="",
        checkpoint_path=candidate.checkpoint_path,
        source=candidate.source,
    )
