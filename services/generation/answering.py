"""The seam between whoever answers requests and whoever asks: generator, cache, account of cost."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, Self, TypeAlias

from services.generation.requests import (
    GenerationRequest,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TextPiece,
)

BatchOutcome: TypeAlias = GenerationResult | BaseException


class Answering(Protocol):
    """Generates and scores; every method but ``generate_batch`` raises ``FleetError``."""

    def for_one_call(self) -> Self:
        """Return the same, but all that it is asked counts as one call: a stream and its items, a batch.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
        """

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate all samples of one request."""

    async def generate_batch(self, requests: Sequence[GenerationRequest | BaseException]) -> list[BatchOutcome]:
        """Generate for many requests; one outcome each, in their order; an exception is its own outcome."""

    def generate_pieces(self, request: GenerationRequest) -> AsyncGenerator[TextPiece | GenerationResult, None]:
        """Generate one answer and yield it piece by piece, and at last as a whole; closing it stops the work."""

    async def score(self, request: ScoringRequest) -> ScoringResult:
        """Score all continuations of one context."""
