"""Sends each deployment to the host of its engine: our own, or the vLLM host of its shape."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import structlog

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.errors import ModelLostError
from services.generation.requests import Prompt, Sampling, TextPiece
from services.generation.triton_backend import TritonBackend, losses
from services.inference.client import InferenceClient
from services.inference.contract import DEFAULT_BOUNDS, EngineBounds
from services.inference.errors import as_fleet_errors
from services.inference.vllm_shapes import VLLM_HOST_PREFIX, vllm_host_model
from services.runtime.errors import DeadlineExceededError, FleetError

_VLLM: str = "vllm"


class EngineRouter:
    """Implements ``InferenceBackend`` over all checkpoint hosts of one inference server.

    A vLLM host stays when its last checkpoint is unloaded, because the next one is read into it within seconds, while
    starting it takes half a minute. It makes room for a host of another shape. Hosts that an earlier process of this
    service started are found again.

    Args:
        client: the connection.
        bounds: of every engine.

    Attributes:
        was_ready: what the server answered when it was last asked whether it takes requests.
    """

    def __init__(self, client: InferenceClient, bounds: EngineBounds = DEFAULT_BOUNDS) -> None:
        self.was_ready = False
        self._client = client
        self._bounds = bounds
        self._own = TritonBackend(client, bounds=bounds)
        self._vllm: dict[str, TritonBackend] = {}
        # Where a deployment is, or may be: it stands here before it is loaded, until it is known to be unloaded.
        self._places: dict[str, TritonBackend] = {}
        self._loading: list[TritonBackend] = []
        self._changing_hosts = asyncio.Lock()
        self._adopting = asyncio.Lock()
        self._has_adopted = False
        self._log: Any = structlog.get_logger(__name__)

    async def is_ready(self) -> bool:
        """Return whether the inference server takes requests."""
        self.was_ready = await self._own.is_ready()
        return self.was_ready

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the deployments that take requests, whatever their engine.

        Of a vLLM host that does not answer in time, what it held is returned: it may be busy, and is no reason to know
        nothing of the others.
        """
        await self._adopt(timeout_seconds)
        found = await asyncio.gather(
            self._own.loaded_names(timeout_seconds=timeout_seconds),
            *(self._names_at(model, host, timeout_seconds) for model, host in self._vllm.items()),
        )
        return frozenset[str]().union(*found)

    async def warm_up(self, *, timeout_seconds: float) -> None:
        """Start the host of our own engine."""
        await self._own.warm_up(timeout_seconds=timeout_seconds)

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the device on which the checkpoints live."""
        return await self._own.memory_bytes(timeout_seconds=timeout_seconds)

    def adopt(self, deployment: Deployment) -> None:
        """Do nothing: the server itself says what it has."""

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a deployment into the host of its engine, which starts if need be."""
        if deployment.engine != _VLLM:
            await self._own.load(deployment, timeout_seconds=timeout_seconds)
            return
        await self._adopt(timeout_seconds)
        host = await self._vllm_host(deployment, timeout_seconds)
        try:
            await host.load(deployment, timeout_seconds=timeout_seconds)
        except (DeadlineExceededError, ModelLostError):
            raise  # it may be loaded all the same
        except FleetError:
            self._places.pop(deployment.name, None)
            raise
        finally:
            self._loading.remove(host)

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment; an unknown name is no error."""
        await self._adopt(timeout_seconds)
        await self._place(name).unload(name, timeout_seconds=timeout_seconds)
        self._places.pop(name, None)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer."""
        return await self._place(name).generate(
            name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds
        )

    def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece; closing it stops the work."""
        return self._place(name).generate_pieces(
            name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds
        )

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context."""
        return await self._place(name).score(
            name, context, continuations, truncate=truncate, timeout_seconds=timeout_seconds
        )

    def _place(self, name: str) -> TritonBackend:
        # What is not known here is our own engine's, or not loaded, which that says.
        return self._places.get(name, self._own)

    async def _names_at(self, model: str, host: TritonBackend, timeout_seconds: float) -> frozenset[str]:
        try:
            return await host.loaded_names(timeout_seconds=timeout_seconds)
        except ModelLostError:
            raise
        except FleetError as error:
            self._log.warning("vllm_host_silent", host=model, error=error.message)
            return frozenset(name for name, place in self._places.items() if place is host)

    async def _adopt(self, timeout_seconds: float) -> None:
        """Find the vLLM hosts that the server has from before this process, and what they hold."""
        async with self._adopting:
            if self._has_adopted:
                return
            with losses():
                known = await self._client.list_models(timeout_seconds=timeout_seconds)
            for each in known:
                if each.name.startswith(VLLM_HOST_PREFIX) and each.state == "READY":
                    host = TritonBackend(self._client, each.name, "vllm_host", bounds=self._bounds)
                    for name in await host.loaded_names(timeout_seconds=timeout_seconds):
                        self._places[name] = host
                    self._vllm[each.name] = host
            self._has_adopted = True

    async def _vllm_host(self, deployment: Deployment, timeout_seconds: float) -> TritonBackend:
        """Return the host for a deployment, which is noted as its place and as being loaded into."""
        with as_fleet_errors():
            model = await asyncio.to_thread(
                vllm_host_model, deployment.checkpoint_path, deployment.dtype, deployment.adapter_path
            )
        async with self._changing_hosts:
            if model not in self._vllm:
                await self._stop_idle(timeout_seconds)
                self._vllm[model] = TritonBackend(self._client, model, "vllm_host", bounds=self._bounds)
            host = self._vllm[model]
            self._places[deployment.name] = host
            self._loading.append(host)
            return host

    async def _stop_idle(self, timeout_seconds: float) -> None:
        """End the vLLM hosts that hold nothing and into which nothing is being loaded."""
        for model, host in list(self._vllm.items()):
            try:
                if host in self._loading or await host.loaded_names(timeout_seconds=timeout_seconds):
                    continue
                await host.stop(timeout_seconds=timeout_seconds)
                del self._vllm[model]
            except FleetError as error:
                # It takes memory, but is no reason to refuse another checkpoint; the next new shape tries again.
                self._log.warning("idle_host_not_stopped", host=model, error=error.message)
