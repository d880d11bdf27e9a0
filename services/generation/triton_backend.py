"""The inference backend that is a Triton server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, cast

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.errors import ModelControlRefusedError, ModelLostError
from services.generation.requests import ContinuationScore, FinishReason, Prompt, Sampling
from services.inference import contract, repository
from services.inference.client import InferenceClient
from services.inference.contract import CausalLMArguments, DtypeName
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FleetError

_LOADED_STATE: Final = "READY"
_ENGINE_CRASHED: Final = "ENGINE_CRASHED"
_CONTROL_REFUSED: Final = "MODEL_CONTROL_REFUSED"
# After these the model has to be (or may have to be) loaded again; other errors are the request's own.
_LOST_REASONS: Final = frozenset(
    {"INFERENCE_UNAVAILABLE", "INFERENCE_STOPPING", "MODEL_NOT_LOADED", "MODEL_NOT_READY", _ENGINE_CRASHED}
)


class TritonBackend:
    """Implements ``InferenceBackend`` over the client of the inference room."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    async def is_ready(self) -> bool:
        """Return whether Triton takes requests."""
        return await self._client.is_ready()

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return the names of the models that take requests."""
        with _losses():
            models = await self._client.list_models(timeout_seconds=timeout_seconds)
        return frozenset(model.name for model in models if model.state == _LOADED_STATE)

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a checkpoint through explicit model control."""
        # The registry's dtypes are a subset of the contract's.
        dtype = cast(DtypeName, deployment.dtype)
        entry = repository.causal_lm_entry(CausalLMArguments(model=deployment.checkpoint_path, dtype=dtype))
        with _losses():
            await self._client.load_model(deployment.name, entry, timeout_seconds=timeout_seconds)

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a model; its process ends after the requests in flight."""
        with _losses():
            await self._client.unload_model(name, timeout_seconds=timeout_seconds)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer; cancelling closes the stream, which stops the engine's work."""
        with _losses():
            answer = await self._client.generate(
                name,
                _prompt(prompt),
                SamplingParameters(
                    max_tokens=sampling.max_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    seed=sampling.seed,
                    stop=sampling.stop,
                ),
                timeout_seconds=timeout_seconds,
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

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context in one request."""
        with _losses():
            answer = await self._client.score_continuations(
                name, _prompt(context), continuations, timeout_seconds=timeout_seconds, truncate_input=truncate
            )
        return EngineScores(
            scores=[ContinuationScore(each.log_likelihood, each.is_greedy, each.num_tokens) for each in answer.scores],
            prompt_tokens=answer.num_input_tokens,
            truncated=answer.num_truncated_tokens > 0,
            engine_seconds=answer.engine_seconds or 0.0,
            prefix_tokens=answer.num_cached_tokens,
        )


def _prompt(prompt: Prompt) -> contract.Prompt:
    if isinstance(prompt, str):
        return prompt
    return [contract.Message(turn.role, turn.content) for turn in prompt]


@contextmanager
def _losses() -> Iterator[None]:
    """Tell the loss of the server or of the model, and a wrong key, from errors of the request."""
    try:
        yield
    except FleetError as error:
        if error.reason == _CONTROL_REFUSED:
            raise ModelControlRefusedError from error
        if error.reason not in _LOST_REASONS:
            raise
        raise ModelLostError(
            error.message, reason=error.reason, engine_crashed=error.reason == _ENGINE_CRASHED
        ) from error
