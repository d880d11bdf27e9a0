"""Between prompts and answers as plain values and the generation service's messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from evalfleet.common.v1 import common_pb2
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.generation.v1 import generation_pb2
from evalfleet.message_sizes import fitting
from evalfleet.names import full_name
from evalfleet.window import Sent

ANSWER_TIMEOUT_SECONDS: Final = 300.0
PATIENCE_SECONDS: Final = 60.0

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


DEFAULT_SAMPLING: Final = Sampling()


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


def generate_request(
    model: str, prompt: Prompt, sampling: Sampling, *, samples: int = 1, priority: Priority | None = None
) -> generation_pb2.GenerateRequest:
    """Ask for an answer."""
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


def generate_request_or_error(
    model: str, prompt: Prompt | EvalFleetError, sampling: Sampling, *, priority: Priority | None
) -> generation_pb2.GenerateRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being answered."""
    if isinstance(prompt, EvalFleetError):
        return prompt
    try:
        return fitting(generate_request(model, prompt, sampling, priority=priority))
    except UnicodeEncodeError:
        return InvalidArgumentError("the prompt's text cannot be written as UTF-8", reason="TEXT_NOT_UTF8")
    except (TypeError, ValueError, KeyError) as error:
        return InvalidArgumentError(
            f"the prompt cannot be sent: {type(error).__name__}: {error}", reason="PROMPT_INVALID"
        )


def is_repeatable(sampling: Sampling) -> bool:
    """Return whether the same request has the same answer, which the service keeps."""
    return not sampling.temperature or sampling.seed is not None


def stream_request(item: Sent[generation_pb2.GenerateRequest]) -> generation_pb2.StreamGenerateRequest:
    """Put an item on a stream."""
    return generation_pb2.StreamGenerateRequest(item_id=item.item_id, request=item.request)


def error_in(message: generation_pb2.StreamGenerateResponse) -> EvalFleetError | None:
    """Return why there is no answer; one that holds nothing is an error, never an answer."""
    return None if message.HasField("response") else from_status(message.status)


def outcome(message: generation_pb2.StreamGenerateResponse | EvalFleetError) -> Answer | EvalFleetError:
    """Translate one result of a stream."""
    if isinstance(message, EvalFleetError):
        return message
    return error_in(message) or answer(message.response)


def token_event(message: generation_pb2.GenerateTokensResponse) -> str | Answer:
    """Translate a piece of an answer, or all of it."""
    return message.piece.text if message.HasField("piece") else answer(message.response)


def continuations_request(
    model: str, context: Prompt, continuations: Sequence[str], priority: Priority | None
) -> generation_pb2.ScoreContinuationsRequest:
    """Ask how likely continuations are."""
    request = generation_pb2.ScoreContinuationsRequest(
        model=full_name("models", model), continuations=continuations, priority=_PRIORITIES[priority]
    )
    if isinstance(context, str):
        request.prompt = context
    else:
        request.conversation.CopyFrom(_conversation(context))
    return request


def continuation_scores(message: generation_pb2.ScoreContinuationsResponse) -> tuple[ContinuationScore, ...]:
    """Translate how likely they are."""
    return tuple(ContinuationScore(each.log_likelihood, each.is_greedy, each.token_count) for each in message.scores)


def answer(message: generation_pb2.GenerateResponse) -> Answer:
    """Translate an answer."""
    return Answer(
        texts=tuple(each.text for each in message.completions),
        finish_reasons=tuple(_FINISH_REASONS.get(each.finish_reason, "") for each in message.completions),
        prompt_tokens=message.usage.prompt_tokens,
        completion_tokens=message.usage.completion_tokens,
        model_digest=message.model_digest,
        is_cached=message.cached,
    )


def _conversation(turns: Sequence[tuple[Role, str]]) -> common_pb2.Conversation:
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in turns]
    )
