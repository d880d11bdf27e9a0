"""The language models of guards inside Triton, loaded when they are missing and again after they were lost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.inference.contract import CausalLMArguments, Prompt
from services.inference.host_contract import HostReport
from services.inference.model_loading import ENGINE_CRASHED, ModelLoading
from services.inference.results import Generated, ScoredContinuations
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FleetError
from services.runtime.usage import Usage
from services.safety.errors import GUARD_LOADING
from services.safety.language_model import GeneratedAnswer, Likelihoods

GUARD_HOST_MODEL: Final = "evalfleet-guards"
"""Name of the guards' own checkpoint host. The generation service owns the other; the death of one spares the other."""

_HOSTLESS_REASONS: Final = frozenset({"MODEL_NOT_LOADED", "MODEL_NOT_READY", ENGINE_CRASHED})
_PROBE_SECONDS: Final = 5.0


class InferenceModels(Protocol):
    """What is used of the inference room's client; see ``InferenceClient`` for its errors."""

    async def is_ready(self) -> bool:
        """Return whether the host answers; never raises."""

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: SamplingParameters,
        *,
        timeout_seconds: float,
        checkpoint: str | None,
    ) -> Generated:
        """Generate one answer."""

    async def score_continuations(
        self,
        model: str,
        context: Prompt,
        continuations: Sequence[str],
        *,
        timeout_seconds: float,
        checkpoint: str | None,
    ) -> ScoredContinuations:
        """Score all continuations of one context."""


class CheckpointHost(Protocol):
    """What is used of ``CheckpointHostClient``."""

    async def start(self, *, timeout_seconds: float) -> None:
        """Load the host itself."""

    async def stop(self, *, timeout_seconds: float) -> None:
        """Unload the host with all its checkpoints."""

    async def load(self, name: str, arguments: CausalLMArguments, *, timeout_seconds: float) -> HostReport:
        """Load a checkpoint."""

    async def list(self, *, timeout_seconds: float) -> HostReport:
        """Return what is loaded."""


class GuardHost:
    """The process inside Triton that holds the checkpoints of all generative guards.

    Args:
        client: of the checkpoint host.
    """

    def __init__(self, client: CheckpointHost) -> None:
        self._client = client
        self._starting = asyncio.Lock()

    async def has(self, name: str) -> bool:
        """Return whether a checkpoint takes requests; never raises."""
        try:
            return name in (await self._client.list(timeout_seconds=_PROBE_SECONDS)).checkpoints
        except FleetError:
            return False

    async def load(self, name: str, arguments: CausalLMArguments, *, timeout_seconds: float) -> None:
        """Load a checkpoint, after starting the host if there is none or its process has died."""
        async with self._starting:
            # Whoever waited for the lock finds the host that another one started.
            reason = await self._problem(timeout_seconds)
            if reason == ENGINE_CRASHED:
                await self._client.stop(timeout_seconds=timeout_seconds)
            if reason:
                await self._client.start(timeout_seconds=timeout_seconds)
        await self._client.load(name, arguments, timeout_seconds=timeout_seconds)

    async def _problem(self, timeout_seconds: float) -> str:
        """Return why there is no host; empty if there is one."""
        try:
            await self._client.list(timeout_seconds=timeout_seconds)
        except FleetError as error:
            if error.reason not in _HOSTLESS_REASONS:
                raise
            return error.reason
        return ""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How long loading may take, in seconds: a load itself, and a call that waits for one."""

    load_seconds: float
    ready_wait_seconds: float


class TritonLanguageModel:
    """Implements ``LanguageModel`` with a checkpoint of the guards' host.

    Args:
        client: the connection.
        host: the guards' host.
        name: of the checkpoint there. It should name the content too: a loaded name is taken as it is.
        arguments: what to load.
        limits: how long that may take.
    """

    def __init__(
        self, client: InferenceModels, host: GuardHost, name: str, arguments: CausalLMArguments, limits: LoadLimits
    ) -> None:
        self._client = client
        self._host = host
        self._name = name
        self._arguments = arguments
        self._load_seconds = limits.load_seconds
        self._loading = ModelLoading(name, GUARD_LOADING, self._load, ready_wait_seconds=limits.ready_wait_seconds)

    async def close(self) -> None:
        """Give up a load in progress; the model stays where it is, for whoever comes next."""
        await self._loading.close()

    async def is_ready(self) -> bool:
        """Return whether the checkpoint takes requests; begin to load it if it does not."""
        if self._loading.is_running:
            return False
        if await self._host.has(self._name):
            return True
        if await self._client.is_ready():
            self._loading.begin()
        else:
            self._loading.forget_host()
        return False

    async def answer(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        stop: tuple[str, ...],
        keep_special_tokens: bool,
        timeout_seconds: float,
    ) -> GeneratedAnswer:
        """Return the greedy answer; a checkpoint that was lost is loaded again first, as far as the time allows."""
        sampling = SamplingParameters(
            max_tokens=max_tokens, temperature=0.0, stop=stop, skip_special_tokens=not keep_special_tokens
        )

        async def ask(seconds: float) -> Generated:
            return await self._client.generate(
                GUARD_HOST_MODEL, prompt, sampling, timeout_seconds=seconds, checkpoint=self._name
            )

        generated = await self._loading.retried(ask, timeout_seconds)
        return GeneratedAnswer(
            generated.text,
            is_complete=generated.finish_reason == "stop",
            prompt_tokens=generated.num_input_tokens,
            answer_tokens=generated.num_output_tokens,
            usage=_usage(generated, generated.num_output_tokens),
        )

    async def log_likelihoods(
        self, prompt: Prompt, continuations: Sequence[str], *, timeout_seconds: float
    ) -> Likelihoods:
        """Return the log-likelihood of each continuation; as ``answer`` where the checkpoint was lost."""

        async def ask(seconds: float) -> ScoredContinuations:
            return await self._client.score_continuations(
                GUARD_HOST_MODEL, prompt, continuations, timeout_seconds=seconds, checkpoint=self._name
            )

        scored = await self._loading.retried(ask, timeout_seconds)
        values = tuple(each.log_likelihood for each in scored.scores)
        return Likelihoods(values, _usage(scored, sum(each.num_tokens for each in scored.scores)))

    async def _load(self, restart: bool) -> None:
        # The host finds out by itself whether its process is dead, and restarts once for all its checkpoints.
        await self._host.load(self._name, self._arguments, timeout_seconds=self._load_seconds)


def _usage(answer: Generated | ScoredContinuations, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=answer.num_input_tokens,
        completion_tokens=completion_tokens,
        engine_seconds=answer.engine_seconds or 0.0,
        computed_prompt_tokens=answer.num_input_tokens - answer.num_cached_tokens,
        computed_completion_tokens=completion_tokens,
        prefix_saved_tokens=answer.num_cached_tokens,
    )
