"""The seam to vLLM: token ids and log-probabilities in and out, nothing of texts."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.inference.failures import InferenceFailure
from services.inference.sampling import SamplingParameters


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: its name, a number of its own from 1 on, and its folder."""

    name: str
    number: int
    path: str


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """One answer to generate.

    Attributes:
        prompt: token ids, at least one.
        sampling: checked parameters; stop texts are the caller's affair.
        max_tokens: most tokens to generate.
        ending_token_ids: tokens that end the answer.
        in_pieces: give tokens as they come rather than all at the end.
        wants_log_probabilities: of the chosen tokens, before temperature.
        adapter: what to add to the weights.
    """

    prompt: Sequence[int]
    sampling: SamplingParameters
    max_tokens: int
    ending_token_ids: frozenset[int]
    in_pieces: bool
    wants_log_probabilities: bool
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """Tokens since the piece before.

    Attributes:
        ids: token ids.
        log_probabilities: one a token; empty if they were not wanted.
        num_cached_tokens: tokens of the prompt that came from the prefix cache.
    """

    ids: Sequence[int]
    log_probabilities: Sequence[float]
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class ScoringJob:
    """A prompt whose own tokens, and whose next token, are wanted as log-probabilities.

    Attributes:
        prompt: token ids, at least one.
        next_ids: candidates for the token behind the prompt, at most ``MAX_NEXT_IDS``.
        wants_prompt: also score the prompt's own tokens, as far as they are computed.
        may_read_cache: take the beginning of the prompt from the prefix cache, whose tokens then have no score.
        adapter: what to add to the weights.
    """

    prompt: Sequence[int]
    next_ids: Sequence[int]
    wants_prompt: bool = False
    may_read_cache: bool = True
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log-probability of a token, and whether it is the most probable one."""

    log_probability: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """What a scoring job found.

    Attributes:
        next_scores: of the candidates, by token id.
        prompt_scores: of the prompt's tokens, by position; positions up to ``num_cached_tokens`` are missing.
        num_cached_tokens: tokens of the prompt that came from the prefix cache.
    """

    next_scores: Mapping[int, TokenScore]
    prompt_scores: Mapping[int, TokenScore]
    num_cached_tokens: int


MAX_NEXT_IDS: Final = 128
"""Most candidates of one scoring job, a limit of vLLM's."""

ENGINE_CRASHED: Final = "ENGINE_CRASHED"

SchedulerWatch = Callable[[Mapping[str, float]], None]
"""Receives ``running``, ``waiting``, ``kv_usage``, and counts since the last call: ``prompt_tokens``,
``cached_tokens`` and ``generated_tokens``."""


def crashed(message: str) -> InferenceFailure:
    """Build the failure of an engine that has to be started anew."""
    return InferenceFailure(f"{message}; load the model again", reason=ENGINE_CRASHED, code="UNAVAILABLE")


class TokenEngine(Protocol):
    """An engine with one set of weights. Leaving an iteration or cancelling an await ends the work on it.

    Every method raises InferenceFailure: ENGINE_CRASHED when the engine is gone for good.
    """

    def generate(self, job: GenerationJob) -> AsyncGenerator[GeneratedTokens, None]:
        """Generate one answer."""

    async def score(self, job: ScoringJob) -> ScoredPrompt:
        """Score one prompt."""

    async def reload(self, path: str) -> None:
        """Replace the weights by those of another checkpoint of the same shape; nothing may be in flight."""

    def close(self) -> None:
        """End the engine."""
