"""Makes results of answers that were kept, computed or shared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.generation.cache.answer_cache import Found
from services.generation.cache.answers import StoredSample, StoredScores
from services.generation.cache.key import ModelIdentity
from services.generation.errors import ModelDeletedError
from services.generation.requests import CacheExplanation, CacheOutcome, GenerationResult, ScoringResult, Usage

_NOTHING: Final = Usage(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Answered:
    """One sample, what it cost here, and what the cache did."""

    sample: StoredSample
    usage: Usage
    outcome: CacheOutcome
    model_digest: str
    explanation: CacheExplanation | None = None


def stored_sample(result: GenerationResult) -> StoredSample:
    """Return what is kept of the answer to a request for one sample."""
    [completion] = result.completions
    return StoredSample(
        completion.text,
        completion.finish_reason,
        completion.token_count,
        result.usage.prompt_tokens,
        result.truncated,
    )


def known_answer(
    stored: StoredSample, outcome: CacheOutcome, identity: ModelIdentity, explanation: CacheExplanation | None
) -> Answered:
    """Return a sample that cost nothing here."""
    usage = replace(_NOTHING, cache_saved_tokens=stored.prompt_tokens + stored.token_count)
    return Answered(stored, usage, outcome, identity.digest, explanation)


def check_model(found: Found[Any], identity: ModelIdentity) -> None:
    """Refuse to pass off what another model has just computed for somebody else, who asked for the same.

    Raises:
        ModelDeletedError: it is another one's.
    """
    if found.computed_by not in ("", identity.digest):
        raise _replaced()


def _replaced() -> ModelDeletedError:
    return ModelDeletedError("the model was replaced while its samples were answered; ask again")


def cached_scores(found: Found[StoredScores], identity: ModelIdentity) -> ScoringResult:
    """Return scores that cost nothing here."""
    stored = found.stored
    tokens = sum(score.token_count for score in stored.scores)
    usage = Usage(stored.prompt_tokens, tokens, 0.0, cache_saved_tokens=stored.prompt_tokens + tokens)
    return ScoringResult(
        stored.scores, usage, identity.digest, stored.truncated, identity.engine, True, found.explanation
    )


def assembled(answered: Sequence[Answered], engine: str) -> GenerationResult:
    """Put the samples of a request together.

    Raises:
        ModelDeletedError: different models gave them.
    """
    digests = {each.model_digest for each in answered}
    if len(digests) > 1:
        raise _replaced()
    usage = answered[0].usage
    for each in answered[1:]:
        usage += each.usage
    prompt_tokens = answered[0].sample.prompt_tokens
    completion_tokens = sum(each.sample.token_count for each in answered)
    if (usage.prompt_tokens, usage.completion_tokens) != (prompt_tokens, completion_tokens):
        usage = replace(usage, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
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
