"""The inference backend that is a Triton server."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from functools import lru_cache
from types import TracebackType
from typing import Final, cast

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.errors import ModelControlRefusedError, ModelLostError
from services.generation.requests import ContinuationScore, FinishReason, Prompt, Sampling, TextPiece
from services.inference import contract
from services.inference.client import InferenceClient
from services.inference.contract import DEFAULT_BOUNDS, CausalLMArguments, DtypeName, EngineBounds
from services.inference.host_client import CheckpointHostClient
from services.inference.host_contract import HOST_MODEL, HostKind, HostReport
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FleetError, InternalError

_REMEMBERED_SAMPLINGS: Final = 256
_ENGINE_CRASHED: Final = "ENGINE_CRASHED"
_CONTROL_REFUSED: Final = "MODEL_CONTROL_REFUSED"
# After these the model has to be (or may have to be) loaded again; other errors are the request's own.
_LOST_REASONS: Final = frozenset(
    {"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING", "MODEL_NOT_LOADED", "MODEL_NOT_READY", _ENGINE_CRASHED}
)
# Of those, the ones by which the server tells that it has no checkpoint host, or that its process is gone.
_HOSTLESS_REASONS: Final = frozenset({"MODEL_NOT_LOADED", "MODEL_NOT_READY", _ENGINE_CRASHED})


class TritonBackend:
    """Implements ``InferenceBackend`` over the client of the inference room.

    All checkpoints live in one resident process of the server, the checkpoint host, because a process of its own would
    cost each of them seconds and some 400 MB. It is loaded when it is first needed, and anew when its process died.

    Args:
        client: the connection.
        host_model: name of the checkpoint host in the server.
        kind: which engine the host has.
        bounds: of what each checkpoint computes together and keeps.
    """

    def __init__(
        self,
        client: InferenceClient,
        host_model: str = HOST_MODEL,
        kind: HostKind = "checkpoint_host",
        *,
        bounds: EngineBounds = DEFAULT_BOUNDS,
    ) -> None:
        self._client = client
        self._bounds = bounds
        self._host_model = host_model
        self._host = CheckpointHostClient(client, host_model, kind)
        self._starting = asyncio.Lock()

    async def is_ready(self) -> bool:
        """Return whether Triton takes requests."""
        return await self._client.is_ready()

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the models that take requests."""
        with losses():
            report = await self._report(timeout_seconds)
        return frozenset(report.checkpoints) if isinstance(report, HostReport) else frozenset()

    async def warm_up(self, *, timeout_seconds: float) -> None:
        """Start the checkpoint host, so that the first checkpoint need not wait for its process."""
        with losses():
            await self._running_host(timeout_seconds)

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the device on which the checkpoints live."""
        with losses():
            return (await self._running_host(timeout_seconds)).memory_bytes

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a checkpoint into the checkpoint host, starting that if need be."""
        # The registry's dtypes are a subset of the contract's.
        dtype = cast(DtypeName, deployment.dtype)
        arguments = CausalLMArguments(
            model=deployment.checkpoint_path,
            dtype=dtype,
            adapter=deployment.adapter_path or None,
            max_num_seqs=self._bounds.max_num_seqs,
            kv_cache_gib=self._bounds.kv_cache_gib,
            prefix_cache_gib=self._bounds.prefix_cache_gib,
        )
        with losses():
            await self._running_host(timeout_seconds)
            await self._host.load(deployment.name, arguments, timeout_seconds=timeout_seconds)

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a checkpoint after its requests in flight."""
        with losses():
            try:
                await self._host.unload(name, timeout_seconds=timeout_seconds)
            except FleetError as error:
                # With its host, everything that was loaded is gone.
                if error.reason not in _HOSTLESS_REASONS:
                    raise

    async def stop(self, *, timeout_seconds: float) -> None:
        """End the host's process with all its checkpoints; it starts anew when it is needed."""
        with losses():
            await self._host.stop(timeout_seconds=timeout_seconds)

    async def _running_host(self, timeout_seconds: float) -> HostReport:
        """Return what the checkpoint host holds, after starting it if there is none or its process has died."""
        report = await self._report(timeout_seconds)
        if isinstance(report, HostReport):
            return report
        async with self._starting:
            # Whoever waited for the lock finds the host that another one started.
            reason = await self._report(timeout_seconds)
            if isinstance(reason, HostReport):
                return reason
            if reason == _ENGINE_CRASHED:
                await self._host.stop(timeout_seconds=timeout_seconds)
            await self._host.start(timeout_seconds=timeout_seconds)
            return await self._host.list(timeout_seconds=timeout_seconds)

    async def _report(self, timeout_seconds: float) -> HostReport | str:
        """Return what the checkpoint host holds, or the reason why there is none."""
        try:
            return await self._host.list(timeout_seconds=timeout_seconds)
        except FleetError as error:
            if error.reason not in _HOSTLESS_REASONS:
                raise
            return error.reason

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer; cancelling closes the stream, which stops the engine's work."""
        with losses():
            answer = await self._client.generate(
                self._host_model,
                _prompt(prompt),
                _parameters(sampling),
                timeout_seconds=timeout_seconds,
                checkpoint=name,
                truncate_input=truncate,
            )
        return EngineAnswer(
            text=answer.text,
            finish_reason=FinishReason(answer.finish_reason),
            prompt_tokens=answer.num_input_tokens,
            completion_tokens=answer.num_output_tokens,
            truncated=answer.num_truncated_tokens > 0,
            engine_seconds=answer.engine_seconds or 0.0,
            prefix_tokens=answer.num_cached_tokens,
        )

    async def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece; closing it closes the stream, which stops the engine's work."""
        text, tokens = "", 0
        chunks = self._client.generate_stream(
            self._host_model,
            _prompt(prompt),
            _parameters(sampling),
            timeout_seconds=timeout_seconds,
            checkpoint=name,
            truncate_input=truncate,
        )
        with losses():
            async with aclosing(chunks):
                async for chunk in chunks:
                    text, tokens = text + chunk.text, tokens + chunk.num_output_tokens
                    yield TextPiece(
                        chunk.text,
                        chunk.num_output_tokens,
                        chunk.num_input_tokens,
                        chunk.num_cached_tokens,
                        chunk.engine_seconds or 0.0,
                    )
        if chunk.finish_reason is None:
            raise InternalError("the model's answer has no finish reason", reason="INFERENCE_ANSWER_INCOMPLETE")
        yield EngineAnswer(
            text=text,
            finish_reason=FinishReason(chunk.finish_reason),
            prompt_tokens=chunk.num_input_tokens,
            completion_tokens=tokens,
            truncated=chunk.num_truncated_tokens > 0,
            engine_seconds=chunk.engine_seconds or 0.0,
            prefix_tokens=chunk.num_cached_tokens,
        )

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context in one request."""
        with losses():
            answer = await self._client.score_continuations(
                self._host_model,
                _prompt(context),
                continuations,
                timeout_seconds=timeout_seconds,
                checkpoint=name,
                truncate_input=truncate,
            )
        return EngineScores(
            scores=[ContinuationScore(each.log_likelihood, each.is_greedy, each.num_tokens) for each in answer.scores],
            prompt_tokens=answer.num_input_tokens,
            truncated=answer.num_truncated_tokens > 0,
            engine_seconds=answer.engine_seconds or 0.0,
            prefix_tokens=answer.num_cached_tokens,
        )


@lru_cache(maxsize=_REMEMBERED_SAMPLINGS, typed=True)
def _parameters(sampling: Sampling) -> SamplingParameters:
    return SamplingParameters(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=sampling.stop,
    )


def _prompt(prompt: Prompt) -> contract.Prompt:
    if isinstance(prompt, str):
        return prompt
    return [contract.Message(turn.role, turn.content) for turn in prompt]


def losses() -> AbstractContextManager[None]:
    """Tell the loss of the server or of the model, and a wrong key, from errors of the request."""
    return _Losses()


class _Losses(AbstractContextManager[None]):
    """See ``losses``; a class, because each request enters one and a generator costs several times as much."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, FleetError):
            return
        if error.reason == _CONTROL_REFUSED:
            raise ModelControlRefusedError from error
        if error.reason in _LOST_REASONS:
            raise ModelLostError(
                error.message, reason=error.reason, engine_crashed=error.reason == _ENGINE_CRASHED
            ) from error
