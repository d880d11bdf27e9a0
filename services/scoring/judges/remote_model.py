"""Judge models of the generation service, over gRPC."""

import time
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

import grpc.aio
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from services.runtime.errors import (
    FailedPreconditionError,
    FleetError,
    InternalError,
    UnavailableError,
    UnimplementedError,
    from_rpc_error,
)
from services.runtime.spending import Asked, least_tokens
from services.runtime.usage import Usage
from services.runtime.usage_messages import usage_from_proto
from services.scoring.judges.judge_model import (
    Answers,
    Decoding,
    JudgePrompt,
    Likelihoods,
    ModelIdentity,
    SampledAnswer,
)

ResponseT = TypeVar("ResponseT")

_IDENTITY_SECONDS: Final = 5.0
"""How long an identity is believed: a name is rarely given to another checkpoint, and never in the middle of a run."""
_LOADING_RETRY_SECONDS: Final = 2.0
_OPENING: Final = "\n\nJudgement:"
"""Where a model without turns begins its answer."""
# A chat template that does not let an answer be continued, or a foreign model that gives no likelihoods.
_NO_LIKELIHOODS: Final = frozenset({"CHAT_TEMPLATE_REJECTED", "FOREIGN_SCORING_UNSUPPORTED"})


class RemoteJudgeModel:
    """Implements ``JudgeModel`` behind a channel.

    Args:
        channel: to the generation service.
        timeout_seconds: longest call; a caller's own deadline may be nearer.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self._models = model_pb2_grpc.ModelServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._identities: dict[str, tuple[float, ModelIdentity]] = {}

    async def identity(self, model: str) -> ModelIdentity:
        """Return which exact model it is, as it was at most some seconds ago."""
        read_at, identity = self._identities.get(model, (0.0, None))
        if identity is not None and time.monotonic() - read_at < _IDENTITY_SECONDS:
            return identity
        request = model_pb2.GetModelRequest(name=model)
        found = (await _typed(self._models.GetModel(request, timeout=self._timeout_seconds))).model
        if found.state == model_pb2.MODEL_STATE_FAILED:
            raise FailedPreconditionError(f"it could not be loaded: {found.failure}", reason="MODEL_FAILED")
        if not found.digest:
            raise UnavailableError(
                "it is still being loaded, and its content is not known yet; try again",
                reason="MODEL_LOADING",
                retry_after_seconds=_LOADING_RETRY_SECONDS,
            )
        is_known = not found.HasField("foreign") or bool(found.foreign.revision)
        identity = ModelIdentity(found.digest, is_known)
        self._identities[model] = time.monotonic(), identity
        return identity

    async def answer(self, model: str, prompt: JudgePrompt, decoding: Decoding) -> Answers:
        """Return the answers to one prompt."""
        is_sampled = decoding.temperature > 0
        request = generation_pb2.GenerateRequest(
            model=model,
            sampling=generation_pb2.SamplingParameters(
                max_tokens=decoding.max_tokens,
                temperature=decoding.temperature,
                seed=decoding.seed if is_sampled else None,
            ),
            sample_count=decoding.sample_count,
        )
        if prompt.format == "chat":
            request.conversation.CopyFrom(_conversation(prompt.text))
        else:
            request.prompt = prompt.text + _OPENING
        with Asked(_least_cost(prompt)) as asked:
            response = await _typed(self._generation.Generate(request, timeout=self._timeout_seconds))
            asked.cost(usage_from_proto(response.usage))
        if len(response.completions) != decoding.sample_count:
            raise InternalError(f"{len(response.completions)} answers instead of {decoding.sample_count}")
        self._compare(model, response.model_digest)
        return Answers(
            tuple(
                SampledAnswer(each.text, each.finish_reason == generation_pb2.FINISH_REASON_STOP)
                for each in response.completions
            ),
            usage_from_proto(response.usage),
            response.model_digest,
        )

    async def likelihoods(
        self, model: str, prompt: JudgePrompt, begun: str, continuations: Sequence[str]
    ) -> Likelihoods | None:
        """Return how likely continuations of an answer are that has begun."""
        request = generation_pb2.ScoreContinuationsRequest(model=model, continuations=continuations)
        if prompt.format == "chat":
            # Templates trim what they render, and an answer that was trimmed cannot be found again to be continued.
            request.conversation.CopyFrom(_conversation(prompt.text, begun.strip()))
        else:
            request.prompt = prompt.text + _OPENING + begun
        try:
            with Asked(_least_cost(prompt)) as asked:
                response = await _typed(self._generation.ScoreContinuations(request, timeout=self._timeout_seconds))
                asked.cost(usage_from_proto(response.usage))
        except UnimplementedError:
            return None
        except FleetError as error:
            if error.reason in _NO_LIKELIHOODS:
                return None
            raise
        if len(response.scores) != len(continuations):
            raise InternalError(f"{len(response.scores)} scores for {len(continuations)} continuations")
        self._compare(model, response.model_digest)
        values = tuple(each.log_likelihood for each in response.scores)
        return Likelihoods(values, usage_from_proto(response.usage), response.model_digest)

    def _compare(self, model: str, answered: str) -> None:
        """Believe an identity no longer if another digest has answered under its name."""
        if (known := self._identities.get(model)) is not None and known[1].digest != answered:
            del self._identities[model]


def _least_cost(prompt: JudgePrompt) -> Usage:
    """Estimate what a question costs at least; its price is the generation service's to know."""
    tokens = least_tokens(len(prompt.text))
    return Usage(prompt_tokens=tokens, computed_prompt_tokens=tokens)


async def _typed(call: Awaitable[ResponseT]) -> ResponseT:
    """Await a call; what it fails with is raised as a FleetError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _conversation(asked: str, begun: str = "") -> common_pb2.Conversation:
    turns = [common_pb2.Message(role=common_pb2.ROLE_USER, content=asked)]
    if begun:
        turns.append(common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=begun))
    return common_pb2.Conversation(messages=turns)
