"""Answers and log-likelihoods of a fleet's checkpoints."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evalfleet.bulk import answered_items
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError, from_status
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.names import full_name

ANSWER_TIMEOUT_SECONDS = 300.0
PATIENCE_SECONDS = 60.0

Role = Literal["system", "user", "assistant"]
Priority = Literal["interactive", "evaluation", "background"]
Prompt: TypeAlias = str | Sequence[tuple[Role, str]]
"""A text given to the model as it is, or the (role, text) of each turn of a conversation."""

_ROLES = {"system": common_pb2.ROLE_SYSTEM, "user": common_pb2.ROLE_USER, "assistant": common_pb2.ROLE_ASSISTANT}
_PRIORITIES = {
    None: generation_pb2.PRIORITY_UNSPECIFIED,
    "interactive": generation_pb2.PRIORITY_INTERACTIVE,
    "evaluation": generation_pb2.PRIORITY_EVALUATION,
    "background": generation_pb2.PRIORITY_BACKGROUND,
}
_FINISH_REASONS = {generation_pb2.FINISH_REASON_STOP: "stop", generation_pb2.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; ``None`` takes the service's default: 256 tokens, greedy."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers to one prompt and what they cost.

    Attributes:
        texts: one a sample.
        finish_reasons: ``stop`` or ``length`` of each; empty if this version does not know it.
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens of all answers.
        model_digest: content digest of the model that answered.
        is_cached: nothing was computed for this.
    """

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    model_digest: str
    is_cached: bool

    @property
    def text(self) -> str:
        """The first answer."""
        return self.texts[0]


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """How likely one continuation is: natural logarithm, summed over its tokens."""

    log_likelihood: float
    is_greedy: bool
    token_count: int


class Generation:
    """The generation service; models may be given as ``models/step-100`` or ``step-100``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = generation_pb2_grpc.GenerationServiceStub(connection.channel)

    def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        samples: int = 1,
        priority: Priority | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Answer:
        """Answer one prompt.

        Args:
            model: name of a registered model.
            prompt: a text or a conversation.
            sampling: how to choose tokens.
            samples: how many answers; more than one needs a temperature above 0.
            priority: whose turn comes first; default: ``evaluation``.
            timeout_seconds: longest wait.
        """
        request = _request(model, prompt, sampling, samples, priority)
        return _answer(self._connection.call(self._stub.Generate, request, timeout_seconds=timeout_seconds))

    def generate_tokens(
        self,
        model: str,
        prompt: Prompt,
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> Iterator[str | Answer]:
        """Yield the pieces of an answer as they are generated, and at last the whole answer.

        Leaving the loop stops the engine's work.
        """
        request = generation_pb2.GenerateTokensRequest(request=_request(model, prompt, sampling, 1, None))
        for event in self._connection.stream(self._stub.GenerateTokens, request, timeout_seconds=timeout_seconds):
            yield event.piece.text if event.HasField("piece") else _answer(event.response)

    def generate_many(
        self,
        model: str,
        prompts: Iterable[Prompt],
        sampling: Sampling = DEFAULT_SAMPLING,
        *,
        priority: Priority | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Iterator[tuple[int, Answer | EvalFleetError]]:
        """Yield (index of the prompt, its answer or what is wrong with it), in the order in which they are ready.

        Prompts are read as fast as the service takes them, so there may be any number. A service that is restarted
        meanwhile is waited for; leaving the loop stops the engine's work.
        """
        requests = (_request(model, prompt, sampling, 1, priority) for prompt in prompts)

        def exchange(
            items: Iterator[tuple[int, generation_pb2.GenerateRequest]],
        ) -> Iterator[generation_pb2.StreamGenerateResponse]:
            messages = (
                generation_pb2.StreamGenerateRequest(item_id=str(number), request=each) for number, each in items
            )
            return self._connection.exchange(self._stub.StreamGenerate, messages)

        for number, outcome in answered_items(requests, exchange, patience_seconds=patience_seconds):
            yield number, _answer(outcome.response) if outcome.HasField("response") else from_status(outcome.status)

    def score_continuations(
        self,
        model: str,
        context: Prompt,
        continuations: Sequence[str],
        *,
        priority: Priority | None = None,
        timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> tuple[ContinuationScore, ...]:
        """Return how likely each continuation of a context is, in their order."""
        request = generation_pb2.ScoreContinuationsRequest(
            model=full_name("models", model),
            continuations=continuations,
            priority=_PRIORITIES[priority],
        )
        if isinstance(context, str):
            request.prompt = context
        else:
            request.conversation.CopyFrom(_conversation(context))
        answer = self._connection.call(self._stub.ScoreContinuations, request, timeout_seconds=timeout_seconds)
        return tuple(ContinuationScore(each.log_likelihood, each.is_greedy, each.token_count) for each in answer.scores)


def _request(
    model: str, prompt: Prompt, sampling: Sampling, samples: int, priority: Priority | None
) -> generation_pb2.GenerateRequest:
    request = generation_pb2.GenerateRequest(
        model=full_name("models", model),
        sampling=generation_pb2.SamplingParameters(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop=sampling.stop,
            seed=sampling.seed,
        ),
        sample_count=samples,
        priority=_PRIORITIES[priority],
    )
    if isinstance(prompt, str):
        request.prompt = prompt
    else:
        request.conversation.CopyFrom(_conversation(prompt))
    return request


def _conversation(turns: Sequence[tuple[Role, str]]) -> common_pb2.Conversation:
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in turns]
    )


def _answer(message: generation_pb2.GenerateResponse) -> Answer:
    return Answer(
        texts=tuple(each.text for each in message.completions),
        finish_reasons=tuple(_FINISH_REASONS.get(each.finish_reason, "") for each in message.completions),
        prompt_tokens=message.usage.prompt_tokens,
        completion_tokens=message.usage.completion_tokens,
        model_digest=message.model_digest,
        is_cached=message.cached,
    )
