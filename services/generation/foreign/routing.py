"""Sends deployments of foreign models to their Tritons, and all others to the fleet's own inference server."""

from collections.abc import AsyncGenerator, Sequence

from services.generation.backend import Deployment, EngineAnswer, EngineScores, InferenceBackend
from services.generation.foreign.backend import ForeignTritons
from services.generation.models import FOREIGN_PREFIX
from services.generation.requests import Prompt, Sampling, TextPiece


class ForeignRouter:
    """Implements ``InferenceBackend`` over the fleet's own server and the foreign ones.

    Args:
        own: the fleet's inference server; its readiness is that of the whole.
        foreign: the others.
    """

    def __init__(self, own: InferenceBackend, foreign: ForeignTritons) -> None:
        self._own = own
        self._foreign = foreign

    async def is_ready(self) -> bool:
        """Return whether the fleet's own server takes requests."""
        return await self._own.is_ready()

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the deployments that take requests."""
        return await self._own.loaded_names(timeout_seconds=timeout_seconds) | self._foreign.loaded_names

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the fleet's own device; foreign models take none of it."""
        return await self._own.memory_bytes(timeout_seconds=timeout_seconds)

    def adopt(self, deployment: Deployment) -> None:
        """Tell the fleet's own server of a deployment that it was to have; foreign ones are found again."""
        if deployment.foreign is None:
            self._own.adopt(deployment)

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a deployment, or find a foreign model in order."""
        if deployment.foreign is None:
            await self._own.load(deployment, timeout_seconds=timeout_seconds)
        else:
            await self._foreign.load(deployment)

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment, or forget a foreign model."""
        if _is_foreign(name):
            self._foreign.unload(name)
        else:
            await self._own.unload(name, timeout_seconds=timeout_seconds)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer."""
        server = self._foreign if _is_foreign(name) else self._own
        return await server.generate(name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds)

    def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece; closing it stops the work."""
        server = self._foreign if _is_foreign(name) else self._own
        return server.generate_pieces(name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds)

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context."""
        server = self._foreign if _is_foreign(name) else self._own
        return await server.score(name, context, continuations, truncate=truncate, timeout_seconds=timeout_seconds)


def _is_foreign(name: str) -> bool:
    return name.startswith(FOREIGN_PREFIX)
