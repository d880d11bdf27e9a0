"""How answers are written into cache entries, and read back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from services.generation.requests import Completion, ContinuationScore, FinishReason
from services.runtime.cache.entry import CorruptEntryError, decode_entry, encode_entry


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One answer as it is kept."""

    text: str
    finish_reason: FinishReason
    token_count: int
    prompt_tokens: int
    truncated: bool

    def completion(self, *, cached: bool) -> Completion:
        """Return the answer as the caller gets it."""
        return Completion(self.text, self.finish_reason, self.token_count, cached)


@dataclass(frozen=True, slots=True)
class StoredScores:
    """The scores of one request as they are kept."""

    scores: Sequence[ContinuationScore]
    prompt_tokens: int
    truncated: bool


def write_sample(key: bytes, sample: StoredSample) -> bytes:
    """Write an entry; floats and texts come back exactly as they were."""
    values = [sample.text, sample.finish_reason.value, sample.token_count, sample.prompt_tokens, sample.truncated]
    return _written(key, values)


def read_sample(key: bytes, entry: bytes) -> StoredSample:
    """Read what ``write_sample`` wrote.

    Raises:
        CorruptEntryError: it is damaged, or something else.
    """
    try:
        text, reason, token_count, prompt_tokens, truncated = json.loads(decode_entry(key, entry))
        return StoredSample(str(text), FinishReason(reason), int(token_count), int(prompt_tokens), bool(truncated))
    except (ValueError, TypeError) as error:
        raise CorruptEntryError(str(error)) from error


def write_scores(key: bytes, scores: StoredScores) -> bytes:
    """Write an entry."""
    values = [[each.log_likelihood, each.is_greedy, each.token_count] for each in scores.scores]
    return _written(key, [values, scores.prompt_tokens, scores.truncated])


def read_scores(key: bytes, entry: bytes) -> StoredScores:
    """Read what ``write_scores`` wrote.

    Raises:
        CorruptEntryError: it is damaged, or something else.
    """
    try:
        values, prompt_tokens, truncated = json.loads(decode_entry(key, entry))
        scores = [ContinuationScore(float(value), bool(greedy), int(count)) for value, greedy, count in values]
        return StoredScores(scores, int(prompt_tokens), bool(truncated))
    except (ValueError, TypeError) as error:
        raise CorruptEntryError(str(error)) from error


def _written(key: bytes, values: object) -> bytes:
    # JSON writes floats so that they are read back bit by bit, infinities included; lone surrogates survive as escapes.
    return encode_entry(key, json.dumps(values, separators=(",", ":")).encode())
