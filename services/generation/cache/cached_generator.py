"""The generator behind the cache: answers what is known, and has the rest computed once."""

import asyncio
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final, Protocol

from services.generation.answering import Answering, BatchOutcome
from services.generation.cache.answer_cache import AnswerCache, Codec, Computed, Found
from services.generation.cache.answers import (
    StoredSample,
    StoredScores,
    read_sample,
    read_scores,
    write_sample,
    write_scores,
)
from services.generation.cache.key import AnswerKey, ModelIdentity, is_cacheable, sample_key, scores_key
from services.generation.errors import ModelDeletedError
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
    Usage,
)
from services.generation.samples import all_samples
from services.generation.time_limits import batch_seconds
from services.runtime.deadlines import bind_deadline

_SAMPLES: Final[Codec[StoredSample]] = Codec(write_sample, read_sample)
_SCORES: Final[Codec[StoredScores]] = Codec(write_scores, read_scores)
_NOTHING: Final = Usage(0, 0, 0.0)


class Models(Protocol):
    """What the cache needs to know about models."""

    def get(self, model_id: str) -> ModelRecord:
        """Return a model, loaded or not; raises NotFoundError."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """One sample, what it cost here, and what the cache did."""

    sample: StoredSample
    usage: Usage
    outcome: CacheOutcome
    model_digest: str
    explanation: CacheExplanation | None = None


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
        places_per_call: samples of one call that are computed at once.
    """

    def __init__(
        self, inner: Answering, models: Models, cache: AnswerCache, *, engine_revision: str, places_per_call: int
    ) -> None:
        self._inner = inner
        self._models = models
        self._cache = cache
        self._engine_revision = engine_revision
        self._places_per_call = places_per_call

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Answer all samples, from the cache where they are there.

        Raises:
            FleetError: as the inner generator.
        """
        return await self._generate(request, asyncio.Semaphore(self._places_per_call))

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Answer many requests; one outcome each, in their order."""
        places = asyncio.Semaphore(self._places_per_call)
        seconds = batch_seconds()

        async def outcome(request: GenerationRequest | BaseException) -> GenerationResult:
            if isinstance(request, BaseException):
                raise request
            async with asyncio.timeout(seconds):
                return await self._generate(request, places)

        with bind_deadline(seconds):
            return await asyncio.gather(*(outcome(request) for request in requests), return_exceptions=True)

    async def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer piece by piece; one that is known comes in one piece. In flight, none is shared.

        Raises:
            FleetError: as the inner generator.
        """
        identity = self._identity(request.model_id)
        outcome = self._skipped(request, identity)
        if identity is not None and outcome is None and request.cache_mode is CacheMode.USE:
            key = sample_key(identity, request, 0)
            stored = await self._cache.look_up(key, _SAMPLES)
            if stored is not None:
                explanation = CacheExplanation(CacheOutcome.HIT, 0, key.digest.hex()) if request.explain_cache else None
                yield TextPiece(stored.text, stored.token_count)
                yield _assembled([_known(stored, CacheOutcome.HIT, identity, explanation)], identity.engine)
                return
        async with aclosing(self._inner.generate_pieces(request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, TextPiece):
                    yield piece
                    continue
                if identity is not None and outcome is None:
                    key = self._key_of(request, 0, identity, piece)
                    await self._cache.keep(key, _SAMPLES, _stored(piece))
                explanation = _plain(outcome or CacheOutcome.MISS) if request.explain_cache else None
                yield replace(piece, cache=explanation)

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score all continuations of one context, from the cache if their scores are there.

        Raises:
            FleetError: as the inner generator.
        """
        identity = self._identity(request.model_id)
        skipped = self._skipped(request, identity)
        if skipped is not None or identity is None:
            result = await self._inner.score(request)
            explanation = _plain(skipped or CacheOutcome.BYPASSED) if request.explain_cache else None
            return replace(result, cache=explanation)
        fresh: list[ScoringResult] = []

        async def compute() -> Computed[StoredScores]:
            result = await self._inner.score(request)
            fresh.append(result)
            key = scores_key(replace(identity, digest=result.model_digest, engine=result.engine), request)
            return Computed(StoredScores(result.scores, result.usage.prompt_tokens, result.truncated), key)

        found = await self._cache.answer(
            scores_key(identity, request),
            request.cache_mode,
            _SCORES,
            compute,
            flight_group=_flight_group(request),
            explained_index=0 if request.explain_cache else None,
        )
        if found.outcome.is_cached or not fresh:
            return _cached_scores(found, identity)
        return replace(fresh[-1], cache=found.explanation)

    async def _generate(self, request: GenerationRequest, places: asyncio.Semaphore) -> GenerationResult:
        identity = self._identity(request.model_id)
        skipped = self._skipped(request, identity)
        if skipped is not None or identity is None:
            async with places:
                result = await self._inner.generate(request)
            explanation = _plain(skipped or CacheOutcome.BYPASSED) if request.explain_cache else None
            return replace(result, cache=explanation)
        samples = (self._sample(request, index, identity, places) for index in request.sample_indices)
        return _assembled(await all_samples(samples), identity.engine)

    async def _sample(
        self, request: GenerationRequest, index: int, identity: ModelIdentity, places: asyncio.Semaphore
    ) -> _Answered:
        fresh: list[GenerationResult] = []

        async def compute() -> Computed[StoredSample]:
            async with places:
                result = await self._inner.generate(replace(request, sample_index=index))
            fresh.append(result)
            return Computed(_stored(result), self._key_of(request, index, identity, result))

        found = await self._cache.answer(
            sample_key(identity, request, index),
            request.cache_mode,
            _SAMPLES,
            compute,
            flight_group=_flight_group(request),
            explained_index=index if request.explain_cache else None,
        )
        if found.outcome.is_cached or not fresh:
            return _known(found.stored, found.outcome, identity, found.explanation)
        [*_, result] = fresh
        return _Answered(found.stored, result.usage, found.outcome, result.model_digest, found.explanation)

    @staticmethod
    def _key_of(request: GenerationRequest, index: int, identity: ModelIdentity, result: GenerationResult) -> AnswerKey:
        """Return the key of what was computed, by whatever the model was then."""
        return sample_key(replace(identity, digest=result.model_digest, engine=result.engine), request, index)

    def _identity(self, model_id: str) -> ModelIdentity | None:
        """Return what computes a model's answers; ``None`` while its content is hashed, if it failed, or is unknown."""
        record = self._models.get(model_id)
        if not record.digest or record.failure or not record.has_known_content:
            return None
        return ModelIdentity(record.digest, record.dtype, record.engine, self._engine_revision)

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


def _stored(result: GenerationResult) -> StoredSample:
    """Return what is kept of the answer to a request for one sample."""
    [completion] = result.completions
    return StoredSample(
        completion.text,
        completion.finish_reason,
        completion.token_count,
        result.usage.prompt_tokens,
        result.truncated,
    )


def _known(
    stored: StoredSample, outcome: CacheOutcome, identity: ModelIdentity, explanation: CacheExplanation | None
) -> _Answered:
    usage = replace(_NOTHING, cache_saved_tokens=stored.prompt_tokens + stored.token_count)
    return _Answered(stored, usage, outcome, identity.digest, explanation)


def _plain(outcome: CacheOutcome) -> CacheExplanation:
    return CacheExplanation(outcome)


def _cached_scores(found: Found[StoredScores], identity: ModelIdentity) -> ScoringResult:
    stored = found.stored
    tokens = sum(score.token_count for score in stored.scores)
    usage = Usage(stored.prompt_tokens, tokens, 0.0, cache_saved_tokens=stored.prompt_tokens + tokens)
    return ScoringResult(
        stored.scores, usage, identity.digest, stored.truncated, identity.engine, True, found.explanation
    )


def _assembled(answered: Sequence[_Answered], engine: str) -> GenerationResult:
    digests = {each.model_digest for each in answered}
    if len(digests) > 1:
        raise ModelDeletedError("the model was replaced while its samples were answered; ask again")
    usage = replace(
        sum((each.usage for each in answered), _NOTHING),
        prompt_tokens=answered[0].sample.prompt_tokens,
        completion_tokens=sum(each.sample.token_count for each in answered),
    )
    explanations = [each.explanation for each in answered if each.explanation]
    misses = [each for each in explanations if each.outcome is not CacheOutcome.HIT]
    return GenerationResult(
        completions=[each.sample.completion(cached=each.outcome.is_cached) for each in answered],
        usage=usage,
        model_digest=answered[0].model_digest,
        truncated=any(each.sample.truncated for each in answered),
        engine=engine,
        cache=next(iter(misses or explanations), None),
    )
