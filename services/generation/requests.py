"""What callers ask of the generation domain, and what they get."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    # Which is made of what is defined here.
    from services.generation.cost.bill import Bill

Role = Literal["system", "user", "assistant"]


class Priority(enum.IntEnum):
    """Whose turn comes first when requests wait; lower goes first."""

    INTERACTIVE = 0
    EVALUATION = 1
    BACKGROUND = 2


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    content: str


Prompt = str | tuple[Turn, ...]
"""A text given to the model as it is, or a conversation for the checkpoint's own chat template."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the defaults are the contract's.

    Attributes:
        max_tokens: most tokens to generate.
        temperature: 0 is greedy.
        top_p: probability mass of the nucleus; 1 keeps all tokens.
        top_k: 0 keeps all tokens.
        stop: texts that end the answer and are left out of it.
        seed: makes the answer repeatable; ``None`` draws fresh entropy.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class CacheMode(enum.Enum):
    """How a request uses the cache of answers."""

    USE = "use"
    REFRESH = "refresh"
    BYPASS = "bypass"


class CacheOutcome(enum.Enum):
    """What the cache of answers did for one sample."""

    HIT = "hit"
    SHARED = "shared"
    MISS = "miss"
    REFRESHED = "refreshed"
    BYPASSED = "bypassed"
    NOT_CACHEABLE = "not_cacheable"
    CORRUPT = "corrupt"

    @property
    def is_cached(self) -> bool:
        """Whether nothing was computed for the sample."""
        return self in (CacheOutcome.HIT, CacheOutcome.SHARED)


@dataclass(frozen=True, slots=True)
class CacheExplanation:
    """What the cache did for one sample, and on a miss how the nearest recent entry differs.

    Attributes:
        outcome: what it did.
        sample_index: which sample.
        key: SHA-256 in hex; empty if the answer has none.
        differing_parts: names of the parts of the key that differ from the nearest entry's.
        nearest_time: when that entry was stored; ``None`` if there is none, or if it was no miss.
    """

    outcome: CacheOutcome
    sample_index: int = 0
    key: str = ""
    differing_parts: tuple[str, ...] = ()
    nearest_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for independent answers.

    Attributes:
        model_id: the ``{model}`` of ``models/{model}``.
        prompt: what to continue or answer.
        sampling: how.
        sample_count: how many answers.
        truncate: whether the oldest prompt tokens may be dropped.
        cache_mode: whether answers may come from the cache.
        explain_cache: whether the result says what the cache did.
        sample_index: ask for this one sample only, as if it were among ``sample_count``.
        traceparent: its own place in a trace, among others of a batch.
        bill: is told what engines compute for it; ``None``: nobody is.
    """

    model_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    sample_count: int = 1
    truncate: bool = False
    cache_mode: CacheMode = CacheMode.USE
    explain_cache: bool = False
    priority: Priority = Priority.EVALUATION
    sample_index: int | None = None
    traceparent: str = field(default="", compare=False)
    bill: "Bill | None" = field(default=None, compare=False, repr=False)

    @property
    def sample_indices(self) -> Sequence[int]:
        """The samples to answer with."""
        return range(self.sample_count) if self.sample_index is None else (self.sample_index,)


class FinishReason(enum.Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer; ``cached`` if it was not computed for this request."""

    text: str
    finish_reason: FinishReason
    token_count: int
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost.

    Of every sample: prompt + completion tokens = computed + saved by prefixes + saved by the cache of answers.

    Attributes:
        prompt_tokens: counted once, however many answers there are.
        completion_tokens: of all answers.
        engine_seconds: the engine's time for what was computed.
        computed_prompt_tokens: of all samples that were computed.
        computed_completion_tokens: likewise.
        prefix_saved_tokens: prompt tokens that the engine's prefix cache gave.
        cache_saved_tokens: prompt and completion tokens of the samples that were not computed.
        cost_nano_usd: price of what was computed, in 1e-9 US dollars.
    """

    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    computed_prompt_tokens: int = 0
    computed_completion_tokens: int = 0
    prefix_saved_tokens: int = 0
    cache_saved_tokens: int = 0
    cost_nano_usd: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together, as of two requests."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.engine_seconds + other.engine_seconds,
            self.computed_prompt_tokens + other.computed_prompt_tokens,
            self.computed_completion_tokens + other.computed_completion_tokens,
            self.prefix_saved_tokens + other.prefix_saved_tokens,
            self.cache_saved_tokens + other.cache_saved_tokens,
            self.cost_nano_usd + other.cost_nano_usd,
        )


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The answers to one request, in the order of their sample index; ``engine`` is what computes the model."""

    completions: Sequence[Completion]
    usage: Usage
    model_digest: str
    truncated: bool
    engine: str = "transformers"
    cache: CacheExplanation | None = None

    @property
    def is_cached(self) -> bool:
        """Whether none of the answers was computed for this request."""
        return all(each.cached for each in self.completions)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of an answer while it is generated: never part of a stop string, never half a character.

    Attributes:
        text: since the piece before.
        token_count: likewise.
        prompt_tokens: of the whole prompt; 0 where the engine has not said so.
        prefix_tokens: of these, how many came from the engine's prefix cache.
        engine_seconds: of the engine's time until now.
    """

    text: str
    token_count: int
    prompt_tokens: int = 0
    prefix_tokens: int = 0
    engine_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A request to score every continuation of one context; ``bill`` as for generation."""

    model_id: str
    context: Prompt
    continuations: tuple[str, ...]
    truncate: bool = False
    cache_mode: CacheMode = CacheMode.USE
    explain_cache: bool = False
    priority: Priority = Priority.EVALUATION
    bill: "Bill | None" = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely one continuation is: natural logarithm, summed over its tokens."""

    log_likelihood: float
    is_greedy: bool
    token_count: int


@dataclass(frozen=True, slots=True)
class ScoringResult:
    """The scores of all continuations, in their order; ``is_cached`` if they were not computed for this request."""

    scores: Sequence[ContinuationScore]
    usage: Usage
    model_digest: str
    truncated: bool
    engine: str = "transformers"
    is_cached: bool = False
    cache: CacheExplanation | None = None
