"""What callers ask of the generation domain, and what they get."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


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


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for ``sample_count`` independent answers; ``truncate`` allows dropping the oldest prompt tokens."""

    model_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    sample_count: int = 1
    truncate: bool = False


class FinishReason(enum.Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer."""

    text: str
    finish_reason: FinishReason
    token_count: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost; the prompt is counted once, however many answers it got."""

    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The answers to one request, in the order of their sample index."""

    completions: Sequence[Completion]
    usage: Usage
    model_digest: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A request to score every continuation of one context."""

    model_id: str
    context: Prompt
    continuations: tuple[str, ...]
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely one continuation is: natural logarithm, summed over its tokens."""

    log_likelihood: float
    is_greedy: bool
    token_count: int


@dataclass(frozen=True, slots=True)
class ScoringResult:
    """The scores of all continuations, in their order."""

    scores: Sequence[ContinuationScore]
    usage: Usage
    model_digest: str
    truncated: bool
