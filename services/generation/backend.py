"""The seam to the inference server: what the generation service needs from it."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.generation.checkpoints import Fingerprint
from services.generation.foreign.target import ForeignTarget
from services.generation.requests import ContinuationScore, FinishReason, Prompt, Sampling, TextPiece


@dataclass(frozen=True, slots=True)
class Deployment:
    """A checkpoint as the inference server loads it.

    Attributes:
        name: the server's name for it; unique per model id and content.
        checkpoint_path: folder of the checkpoint, as the server sees it.
        dtype: number type of the computation: ``float32``, ``bfloat16`` or ``float16``.
        engine: what computes: ``transformers`` or ``vllm``.
        adapter_path: folder of a LoRA adapter that is merged into the weights, as the server sees it; empty: none.
        foreign: which model of a foreign Triton it is, whose tokenizer then lies in ``checkpoint_path``; ``None`` for
            checkpoints of our own.
        digest: of the content that it stands for.
        fingerprint: the files that the digest was computed from.
    """

    name: str
    checkpoint_path: str
    dtype: str
    engine: str = "transformers"
    adapter_path: str = ""
    foreign: ForeignTarget | None = None
    digest: str = ""
    fingerprint: Fingerprint = ()


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """One generated answer and what it cost; ``prefix_tokens`` of the prompt came from the engine's prefix cache."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    truncated: bool
    engine_seconds: float
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineScores:
    """The scores of all continuations of one context and what they cost; ``prefix_tokens`` as for an answer."""

    scores: Sequence[ContinuationScore]
    prompt_tokens: int
    truncated: bool
    engine_seconds: float
    prefix_tokens: int = 0


class InferenceBackend(Protocol):
    """An inference server with explicit model control.

    All calls but ``is_ready`` raise ``FleetError``: ``ModelLostError`` when the server is gone or does not (any longer)
    have the model, ``DeadlineExceededError`` after ``timeout_seconds``, and typed errors of the engine otherwise.
    Cancelling a call stops the engine's work on it.
    """

    async def is_ready(self) -> bool:
        """Return whether the server takes requests; never raises."""

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the deployments that take requests."""

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the device on which deployments live: of the GPU, or of the machine."""

    def adopt(self, deployment: Deployment) -> None:
        """Learn of a deployment that an earlier process of this service loaded, and that is still wanted."""

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a deployment and return when it takes requests; one that is loaded already stays as it is."""

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment; an unknown name is no error."""

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer with exactly the seed that ``sampling`` holds."""

    def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer and yield it piece by piece, and at last as a whole; closing it stops the work."""

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context."""
