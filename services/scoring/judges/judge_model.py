"""The seam to the models that judge."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from services.runtime.usage import Usage

PromptFormat = Literal["chat", "plain"]


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What a model is given.

    Attributes:
        text: the rubric and the judged texts.
        format: ``chat``: as a conversation of one turn, which the checkpoint's chat template renders; ``plain``: as
            it is, for models without one.
        digest: SHA-256 of the text, as hex. A prompt is made in a thread: the text may be long.
    """

    text: str
    format: PromptFormat
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        text = self.text.encode("utf-8", "surrogatepass")
        object.__setattr__(self, "digest", hashlib.sha256(text).hexdigest())


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are sampled; a temperature of 0 is greedy."""

    max_tokens: int
    temperature: float
    seed: int
    sample_count: int


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which exact model a name stands for.

    Attributes:
        digest: of its content.
        is_known: whether the digest says everything; not of a foreign model whose deployer names no revision.
    """

    digest: str
    is_known: bool


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One answer; it is complete if the model ended it."""

    text: str
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one prompt, what they cost, and the digest of the model that gave them."""

    answers: tuple[SampledAnswer, ...]
    usage: Usage
    model_digest: str


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Natural-log likelihood of each continuation, what finding them cost, and the digest of the model that did."""

    values: tuple[float, ...]
    usage: Usage
    model_digest: str


class JudgeModel(Protocol):
    """Models that answer prompts, by resource name."""

    async def identity(self, model: str) -> ModelIdentity:
        """Return which exact model it is; this may be a few seconds old.

        Raises:
            FleetError: there is no such model, or it cannot be used, or not yet.
        """
        ...

    async def answer(self, model: str, prompt: JudgePrompt, decoding: Decoding) -> Answers:
        """Return ``decoding.sample_count`` answers."""
        ...

    async def likelihoods(
        self, model: str, prompt: JudgePrompt, begun: str, continuations: Sequence[str]
    ) -> Likelihoods | None:
        """Return how likely continuations of an answer are that has begun; ``None`` if the model cannot tell."""
        ...
