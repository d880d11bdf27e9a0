"""The inference backend for models of foreign Tritons: connects, checks, asks; loads and unloads nothing."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.errors import ModelLostError
from services.generation.foreign.adapter import ForeignAdapter, ForeignPiece, WireRequest
from services.generation.foreign.connection import ForeignConnection, ModelShape
from services.generation.foreign.errors import (
    ForeignAnswerError,
    ForeignLogprobMissingError,
    ForeignTokenCountError,
    ForeignUnavailableError,
    ForeignUnsupportedError,
)
from services.generation.foreign.target import AllowedTargets, ForeignProtocol, ForeignTarget
from services.generation.foreign.tensorrt_llm import TensorRtLlmAdapter
from services.generation.foreign.tokenizer import ForeignTokenizer, WireChoices, WirePrompt
from services.generation.foreign.vllm_backend import VllmBackendAdapter
from services.generation.requests import ContinuationScore, Prompt, Sampling, TextPiece
from services.runtime.errors import FailedPreconditionError, FleetError, InternalError, NotFoundError

ADAPTERS: Final[Mapping[ForeignProtocol, ForeignAdapter]] = {
    ForeignProtocol.VLLM_BACKEND: VllmBackendAdapter(),
    ForeignProtocol.TENSORRT_LLM: TensorRtLlmAdapter(),
}
# After these the server is asked anew whether it has the model, before the request is repeated.
_LOST_REASONS: Final = frozenset({"FOREIGN_UNREACHABLE", "FOREIGN_MODEL_NOT_READY", "FOREIGN_MODEL_NOT_FOUND"})


@dataclass(frozen=True, slots=True)
class _Model:
    """A foreign model that was found in order."""

    target: ForeignTarget
    adapter: ForeignAdapter
    connection: ForeignConnection
    shape: ModelShape
    tokenizer: ForeignTokenizer


class ForeignTritons:
    """Does for foreign models what ``InferenceBackend`` says, as far as that concerns single models.

    Args:
        allowed: which servers may be asked.
        metrics: receives the counter of requests.
    """

    def __init__(self, allowed: AllowedTargets, metrics: CollectorRegistry) -> None:
        self._allowed = allowed
        self._connections: dict[str, ForeignConnection] = {}
        self._models: dict[str, _Model] = {}
        self._requests = Counter(
            "evalfleet_generation_foreign_requests",
            "Requests to models of foreign Tritons by protocol and outcome: answered, or the reason of the error.",
            labelnames=("protocol", "outcome"),
            registry=metrics,
        )

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(each.close() for each in self._connections.values()))

    @property
    def loaded_names(self) -> frozenset[str]:
        """The deployments that were found in order."""
        return frozenset(self._models)

    async def probe(self, target: ForeignTarget) -> ModelShape:
        """Make sure that a model may be asked, is there, takes requests and has the tensors of its protocol.

        Raises:
            ForeignTargetRefusedError: the server is not on the allow-list.
            ForeignUnavailableError: the server or the model does not take requests now.
            NotFoundError: FOREIGN_MODEL_NOT_FOUND.
            FailedPreconditionError: FOREIGN_MODEL_MISMATCH, FOREIGN_CONFIG_REFUSED.
        """
        self._allowed.check(target.target)
        shape = await self._connection(target).model_shape(target)
        ADAPTERS[target.protocol].check(shape)
        return shape

    async def load(self, deployment: Deployment) -> None:
        """Find a registered model in order; one that is gone was taken away for now, by whoever deploys it.

        Raises:
            ForeignTokenizerError: its tokenizer is damaged.
            FleetError: as ``probe``, but NotFoundError.
        """
        target = deployment.foreign
        assert target is not None
        self._models.pop(deployment.name, None)
        tokenizer = await asyncio.to_thread(ForeignTokenizer.load, Path(deployment.checkpoint_path))
        try:
            shape = await self.probe(target)
        except NotFoundError as error:
            raise ForeignUnavailableError(error.message, reason="FOREIGN_MODEL_NOT_READY") from error
        self._models[deployment.name] = _Model(
            target, ADAPTERS[target.protocol], self._connection(target), shape, tokenizer
        )

    def unload(self, name: str) -> None:
        """Forget a model; the foreign server is told nothing."""
        self._models.pop(name, None)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer.

        Raises:
            ModelLostError: the server or the model is gone.
            FleetError: as the adapter and the tokenizer, or by the server's status.
        """
        answer: EngineAnswer | None = None
        pieces = self._pieces(name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds, stream=False)
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, EngineAnswer):
                    answer = piece
        assert answer is not None
        return answer

    def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece, or in one piece where the protocol has no whole ones."""
        return self._pieces(name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds, stream=True)

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score continuations of one token each, in one request, or two if the first does not tell all of them.

        Raises:
            ForeignUnsupportedError: they cannot be scored exactly.
            FleetError: as ``generate``.
        """
        model = self._model(name)
        with self._counted(model):
            choices = await asyncio.to_thread(model.tokenizer.wire_choices, context, continuations)
            _room(model.tokenizer, choices.context, truncate=truncate)
            ends_at = asyncio.get_running_loop().time() + timeout_seconds
            try:
                scores = await self._scores(model, choices, model.adapter.scoring(choices, model.shape), ends_at)
            except ForeignLogprobMissingError as missing:
                named = model.adapter.scoring_by_name(choices, model.shape)
                if named is None:
                    raise
                try:
                    scores = await self._scores(model, choices, named, ends_at)
                except InternalError as error:
                    # An older version does not know the parameter, and has no better word for it.
                    raise missing from error
        return EngineScores(scores, choices.context.token_count, truncated=False, engine_seconds=0.0)

    async def _scores(
        self, model: _Model, choices: WireChoices, request: WireRequest, ends_at: float
    ) -> Sequence[ContinuationScore]:
        left_seconds = ends_at - asyncio.get_running_loop().time()
        responses = model.connection.responses(
            model.target, request.inputs, request.outputs, timeout_seconds=left_seconds
        )
        async with aclosing(responses):
            found = [each async for each in responses]
        if len(found) != 1:
            raise ForeignAnswerError(
                f"the foreign model gave {len(found)} responses instead of one", reason="FOREIGN_ANSWER_INCOMPLETE"
            )
        _check_count(choices.context, model.adapter.read_input_tokens(found[0]))
        return model.adapter.read_scores(found[0], choices, model.tokenizer.facts.vocabulary_size)

    async def _pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float, stream: bool
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        model = self._model(name)
        with self._counted(model):
            wire = await asyncio.to_thread(model.tokenizer.wire_prompt, prompt)
            room = _room(model.tokenizer, wire, truncate=truncate)
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
            streams = stream and model.adapter.streams
            request = model.adapter.generation(wire, sampling, model.shape, stream=streams)
            text, tokens = "", 0
            last: ForeignPiece | None = None
            responses = model.connection.responses(
                model.target, request.inputs, request.outputs, timeout_seconds=timeout_seconds
            )
            async with aclosing(responses):
                async for outputs in responses:
                    if last is not None and (last.finish_reason is not None or not streams):
                        raise ForeignAnswerError("the foreign model went on after the end of its answer")
                    last = model.adapter.read_piece(outputs, sampling)
                    _check_count(wire, last.input_tokens)
                    text, tokens = text + last.text, tokens + last.output_tokens
                    if tokens > sampling.max_tokens:
                        raise ForeignAnswerError(
                            f"the foreign model says that it generated {tokens} tokens, but may at most "
                            f"{sampling.max_tokens}"
                        )
                    yield TextPiece(last.text, last.output_tokens, last.input_tokens)
            if last is None or last.finish_reason is None:
                raise ForeignAnswerError("the foreign model's answer has no end", reason="FOREIGN_ANSWER_INCOMPLETE")
        yield EngineAnswer(
            text=text,
            finish_reason=last.finish_reason,
            prompt_tokens=last.input_tokens,
            completion_tokens=tokens,
            truncated=False,
            engine_seconds=0.0,
        )

    def _connection(self, target: ForeignTarget) -> ForeignConnection:
        connection = self._connections.get(target.target)
        if connection is None:
            connection = self._connections[target.target] = ForeignConnection(target.target)
        return connection

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            raise ModelLostError("the foreign model has not been found in order yet", reason="FOREIGN_MODEL_NOT_READY")
        return model

    @contextmanager
    def _counted(self, model: _Model) -> Iterator[None]:
        """Count a request, and tell the loss of the server or of the model from errors of the request."""
        try:
            yield
        except FleetError as error:
            self._requests.labels(model.target.engine, error.reason).inc()
            if error.reason in _LOST_REASONS:
                raise ModelLostError(error.message, reason=error.reason) from error
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._requests.labels(model.target.engine, "CANCELLED").inc()
            raise
        self._requests.labels(model.target.engine, "answered").inc()


def _check_count(prompt: WirePrompt, counted: int) -> None:
    if counted != prompt.token_count:
        raise ForeignTokenCountError(expected=prompt.token_count, actual=counted)


def _room(tokenizer: ForeignTokenizer, prompt: WirePrompt, *, truncate: bool) -> int:
    """Return how many tokens may be generated behind a prompt, as far as the window is known."""
    window = tokenizer.facts.context_tokens
    if not window:
        return 1 << 31
    if prompt.token_count < window:
        return window - prompt.token_count
    if truncate:
        raise ForeignUnsupportedError(
            f"the prompt has {prompt.token_count} tokens, the window {window}; a foreign Triton takes text, which "
            "cannot be shortened token by token: shorten the prompt",
            reason="FOREIGN_TRUNCATION_UNSUPPORTED",
            metadata={"prompt_tokens": str(prompt.token_count), "context_tokens": str(window)},
        )
    raise FailedPreconditionError(
        f"the prompt has {prompt.token_count} tokens and leaves no room in the window of {window}",
        reason="PROMPT_TOO_LONG",
        metadata={"prompt_tokens": str(prompt.token_count), "context_tokens": str(window)},
    )
