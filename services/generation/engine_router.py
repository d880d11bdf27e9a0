"""Sends each deployment to the host of its engine: our own, or the vLLM host of its shape."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import structlog

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.requests import Prompt, Sampling, TextPiece
from services.generation.triton_backend import TritonBackend
from services.inference.client import InferenceClient
from services.inference.errors import as_fleet_errors
from services.inference.vllm_shapes import vllm_host_model
from services.runtime.errors import FleetError

_VLLM: str = "vllm"


class EngineRouter:
    """Implements ``InferenceBackend`` over all checkpoint hosts of one inference server.

    A vLLM host stays when its last checkpoint is unloaded, because the next one is read into it within seconds, while
    starting it takes half a minute. It makes room for a host of another shape.
    """

    def __init__(self, client: InferenceClient) -> None:
        self._client = client
        self._own = TritonBackend(client)
        self._vllm: dict[str, TritonBackend] = {}
        self._hosts: dict[str, TritonBackend] = {}

    async def is_ready(self) -> bool:
        """Return whether the inference server takes requests."""
        return await self._own.is_ready()

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the deployments that take requests, whatever their engine."""
        found = await asyncio.gather(
            *(host.loaded_names(timeout_seconds=timeout_seconds) for host in (self._own, *self._vllm.values()))
        )
        return frozenset[str]().union(*found)

    async def warm_up(self, *, timeout_seconds: float) -> None:
        """Start the host of our own engine."""
        await self._own.warm_up(timeout_seconds=timeout_seconds)

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the device on which the checkpoints live."""
        return await self._own.memory_bytes(timeout_seconds=timeout_seconds)

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a deployment into the host of its engine, which starts if need be."""
        host = await self._host_for(deployment, timeout_seconds)
        await host.load(deployment, timeout_seconds=timeout_seconds)
        self._hosts[deployment.name] = host

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment; an unknown name is no error."""
        await self._host(name).unload(name, timeout_seconds=timeout_seconds)
        self._hosts.pop(name, None)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer."""
        return await self._host(name).generate(
            name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds
        )

    def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece; closing it stops the work."""
        return self._host(name).generate_pieces(
            name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds
        )

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context."""
        return await self._host(name).score(
            name, context, continuations, truncate=truncate, timeout_seconds=timeout_seconds
        )

    def _host(self, name: str) -> TritonBackend:
        # What is not known here is not loaded, which any host says.
        return self._hosts.get(name, self._own)

    async def _host_for(self, deployment: Deployment, timeout_seconds: float) -> TritonBackend:
        if deployment.engine != _VLLM:
            return self._own
        with as_fleet_errors():
            model = await asyncio.to_thread(
                vllm_host_model, deployment.checkpoint_path, deployment.dtype, deployment.adapter_path
            )
        if model not in self._vllm:
            await self._stop_idle(timeout_seconds)
            self._vllm[model] = TritonBackend(self._client, model, "vllm_host")
        return self._vllm[model]

    async def _stop_idle(self, timeout_seconds: float) -> None:
        """End the vLLM hosts that hold nothing."""
        busy = set(map(id, self._hosts.values()))
        for model, host in list(self._vllm.items()):
            if id(host) in busy:
                continue
            del self._vllm[model]
            try:
                await host.stop(timeout_seconds=timeout_seconds)
            except FleetError as error:
                # It takes memory, but is no reason to refuse another checkpoint.
                structlog.get_logger(__name__).warning("idle_host_not_stopped", host=model, error=error.message)
