"""The generator behind the cache: answers what is known, and has the rest computed once."""

import asyncio
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from typing import Final, Protocol

from services.generation.answering import Answering, BatchOutcome
from services.generation.cache.answer_cache import AnswerCache, Codec, Computed
from services.generation.cache.answers import (
    StoredSample,
    StoredScores,
    read_sample,
    read_scores,
    write_sample,
    write_scores,
)
from services.generation.cache.assembling import (
    Answered,
    assembled,
    cached_scores,
    check_model,
    known_answer,
    stored_sample,
)
from services.generation.cache.dated_templates import DatedTemplates
from services.generation.cache.key import ModelIdentity, is_cacheable, sample_key, scores_key
from services.generation.models import ModelRecord
from services.generation.requests import (
    CacheExplanation,
    CacheMode,
    CacheOutcome,
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TextPiece,
)
from services.generation.samples import all_samples
from services.runtime.deadlines import bind_deadline
from services.runtime.telemetry.spans import span
from services.runtime.time_limits import batch_seconds

_SAMPLES: Final[Codec[StoredSample]] = Codec(write_sample, read_sample)
_SCORES: Final[Codec[StoredScores]] = Codec(write_scores, read_scores)


class Models(Protocol):
    """What the cache needs to know about models."""

    def get(self, model_id: str) -> ModelRecord:
        """Return a model, loaded or not; raises NotFoundError."""


class CachedGenerator:
    """Implements ``Answering`` with a cache before another one.

    Each sample has an entry of its own: asking for four answers after two computes two. The scores of a request are one
    entry: whether the context was shortened is known of all of them together only, and in the bundled suites no two
    requests share a context without sharing all choices. A model need not be loaded for what the cache knows.

    Args:
        inner: computes.
        models: says what a model's content is.
        cache: holds the answers.
        engine_revision: see ``ModelIdentity``.
        templates: tells whose prompts are of a day.
    """

    def __init__(
        self,
        inner: Answering,
        models: Models,
        cache: AnswerCache,
        *,
        engine_revision: str,
        templates: DatedTemplates | None = None,
    ) -> None:
        self._inner = inner
        self._models = models
        self._cache = cache
        self._engine_revision = engine_revision
        self._templates = templates or DatedTemplates()
        self._is_of_one_call = False

    def for_one_call(self) -> "CachedGenerator":
        """Return the same for all of one call; raises InvalidArgumentError CALLER_INVALID."""
        bound = copy(self)
        bound._inner = self._inner.for_one_call()
        bound._is_of_one_call = True
        return bound

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Answer all samples, from the cache where they are there.

        Raises:
            FleetError: as the inner generator.
        """
        bound = self if self._is_of_one_call else self.for_one_call()
        return await bound._generate(request)

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Answer many requests; one outcome each, in their order."""
        bound = self.for_one_call()
        seconds = batch_seconds()

        async def outcome(request: GenerationRequest | BaseException) -> GenerationResult:
            if isinstance(request, BaseException):
                raise request
            with span("BatchGenerate/item", "server", parent=request.traceparent):
                async with asyncio.timeout(seconds):
                    return await bound._generate(request)

        with bind_deadline(seconds):
            return await asyncio.gather(*(outcome(request) for request in requests), return_exceptions=True)

    async def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer piece by piece; one that is known comes in one piece. In flight, none is shared.

        Raises:
            FleetError: as the inner generator.
        """
        identity = await self._identity(request.model_id)
        outcome = self._skipped(request, identity)
        fresh = CacheOutcome.REFRESHED if request.cache_mode is CacheMode.REFRESH else CacheOutcome.MISS
        if identity is not None and outcome is None and request.cache_mode is CacheMode.USE:
            key = sample_key(identity, request, 0)
            stored = await self._cache.look_up(key, _SAMPLES)
            if stored is not None:
                explanation = CacheExplanation(CacheOutcome.HIT, 0, key.digest.hex()) if request.explain_cache else None
                yield TextPiece(stored.text, stored.token_count)
                yield assembled([known_answer(stored, CacheOutcome.HIT, identity, explanation)], identity.engine)
                return
        async with aclosing(self._inner.generate_pieces(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, TextPiece):
                    yield piece
                    continue
                if identity is not None and outcome is None:
                    key = sample_key(self._computed_by(identity, piece), request, 0)
                    await self._cache.keep(key, _SAMPLES, stored_sample(piece))
                yield replace(piece, cache=CacheExplanation(outcome or fresh) if request.explain_cache else None)

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score all continuations of one context, from the cache if their scores are there.

        Raises:
            FleetError: as the inner generator.
        """
        identity = await self._identity(request.model_id)
        skipped = self._skipped(request, identity)
        if skipped is not None or identity is None:
            result = await self._inner.score(request)
            explanation = CacheExplanation(skipped or CacheOutcome.BYPASSED) if request.explain_cache else None
            return replace(result, cache=explanation)
        fresh: list[ScoringResult] = []
        asked_key = scores_key(identity, request)

        async def compute() -> Computed[StoredScores]:
            result = await self._inner.score(request)
            fresh.append(result)
            computed_by = self._computed_by(identity, result)
            key = asked_key if computed_by is identity else scores_key(computed_by, request)
            stored = StoredScores(result.scores, result.usage.prompt_tokens, result.truncated)
            return Computed(stored, key, result.model_digest)

        found = await self._cache.answer(
            asked_key,
            request.cache_mode,
            _SCORES,
            compute,
            flight_group=_flight_group(request),
            explained_index=0 if request.explain_cache else None,
        )
        if found.outcome.is_cached or not fresh:
            check_model(found, identity)
            return cached_scores(found, identity)
        return replace(fresh[-1], cache=found.explanation)

    async def _generate(self, request: GenerationRequest) -> GenerationResult:
        identity = await self._identity(request.model_id)
        skipped = self._skipped(request, identity)
        if skipped is not None or identity is None:
            result = await self._inner.generate(request)
            explanation = CacheExplanation(skipped or CacheOutcome.BYPASSED) if request.explain_cache else None
            return replace(result, cache=explanation)
        samples = (self._sample(request, index, identity) for index in request.sample_indices)
        return assembled(await all_samples(samples), identity.engine)

    async def _sample(self, request: GenerationRequest, index: int, identity: ModelIdentity) -> Answered:
        fresh: list[GenerationResult] = []
        asked_key = sample_key(identity, request, index)

        async def compute() -> Computed[StoredSample]:
            # The only sample of a request is the request itself.
            asked = request if request.sample_count == 1 else replace(request, sample_index=index)
            result = await self._inner.generate(asked)
            fresh.append(result)
            computed_by = self._computed_by(identity, result)
            key = asked_key if computed_by is identity else sample_key(computed_by, request, index)
            return Computed(stored_sample(result), key, result.model_digest)

        found = await self._cache.answer(
            asked_key,
            request.cache_mode,
            _SAMPLES,
            compute,
            flight_group=_flight_group(request),
            explained_index=index if request.explain_cache else None,
        )
        if found.outcome.is_cached or not fresh:
            check_model(found, identity)
            return known_answer(found.stored, found.outcome, identity, found.explanation)
        [*_, result] = fresh
        return Answered(found.stored, result.usage, found.outcome, result.model_digest, found.explanation)

    @staticmethod
    def _computed_by(asked: ModelIdentity, result: GenerationResult | ScoringResult) -> ModelIdentity:
        """Return what the model was when it answered; if the day has passed since, nobody asks for that key again."""
        if result.model_digest == asked.digest and result.engine == asked.engine:
            return asked
        return replace(asked, digest=result.model_digest, engine=result.engine)

    async def _identity(self, model_id: str) -> ModelIdentity | None:
        """Return what computes a model's answers; ``None`` while its content is hashed, if it failed, or is unknown."""
        record = self._models.get(model_id)
        if not record.digest or record.failure or not record.has_known_content:
            return None
        day = await self._templates.day(record)
        return ModelIdentity(record.digest, record.dtype, record.engine, self._engine_revision, day)

    def _skipped(
        self, request: GenerationRequest | ScoringRequest, identity: ModelIdentity | None
    ) -> CacheOutcome | None:
        """Return why the cache has no part in a request; ``None`` if it has."""
        if request.cache_mode is not CacheMode.BYPASS and not self._models.get(request.model_id).has_known_content:
            return CacheOutcome.NOT_CACHEABLE
        if request.cache_mode is CacheMode.BYPASS or identity is None:
            return CacheOutcome.BYPASSED
        is_kept = isinstance(request, ScoringRequest) or is_cacheable(request.sampling)
        return None if is_kept else CacheOutcome.NOT_CACHEABLE


def _flight_group(request: GenerationRequest | ScoringRequest) -> Hashable:
    """Part requests that must not wait for one another: an interactive one for one in the background."""
    return getattr(request, "priority", None)
