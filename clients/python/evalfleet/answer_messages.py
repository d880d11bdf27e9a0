"""Between prompts and answers as plain values and the generation service's messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from evalfleet import item_decoding
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE
from evalfleet.decoding import moment
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.generation.v1 import generation_pb2
from evalfleet.item_results import ItemUsage
from evalfleet.message_sizes import fitting
from evalfleet.names import full_name
from evalfleet.window import Sent

ANSWER_TIMEOUT_SECONDS: Final = 300.0
PATIENCE_SECONDS: Final = 60.0
SILENCE_SECONDS: Final = 660.0
"""Longer than an item of a stream may take, by default."""
LARGEST_BATCH: Final = 256
BATCH_TIMEOUT_SECONDS: Final = 600.0

Role = Literal["system", "user", "assistant"]
Priority = Literal["interactive", "evaluation", "background"]
StreamOutcome: TypeAlias = generation_pb2.StreamGenerateResponse | generation_pb2.StreamGenerateOutcome
ContinuationsOutcome: TypeAlias = (
    generation_pb2.StreamScoreContinuationsResponse | generation_pb2.StreamScoreContinuationsOutcome
)
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


@dataclass(frozen=True, slots=True)
class CallerUsage:
    """What one caller has cost the generation service since that first ran.

    Attributes:
        caller: as it names itself; ``anonymous`` if it does not, ``others`` for those beyond the most that are told
            apart.
        request_count: requests that were answered.
        cached_request_count: of those, how many were answered without computing anything.
        usage: of all of them.
    """

    caller: str
    request_count: int
    cached_request_count: int
    usage: ItemUsage
    first_time: datetime | None
    last_time: datetime | None


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
    model: str, prompt: Prompt | EvalFleetError, sampling: Sampling, *, samples: int = 1, priority: Priority | None
) -> generation_pb2.GenerateRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being answered."""
    if isinstance(prompt, EvalFleetError):
        return prompt
    try:
        return fitting(generate_request(model, prompt, sampling, samples=samples, priority=priority))
    except (TypeError, ValueError, KeyError) as error:
        return _unsendable(error)


def is_repeatable(sampling: Sampling) -> bool:
    """Return whether the same request has the same answer, which the service keeps."""
    return not sampling.temperature or sampling.seed is not None


def stream_request(items: Sequence[Sent[generation_pb2.GenerateRequest]]) -> generation_pb2.StreamGenerateRequest:
    """Put items on a stream, in one message."""
    first, *others = items
    more = [generation_pb2.StreamGenerateItem(item_id=each.item_id, request=each.request) for each in others]
    return generation_pb2.StreamGenerateRequest(item_id=first.item_id, request=first.request, more=more)


def stream_outcomes(message: generation_pb2.StreamGenerateResponse) -> tuple[StreamOutcome, ...]:
    """Return the outcomes in a message."""
    return (message, *message.more)


def error_in(message: generation_pb2.GenerateResult | StreamOutcome) -> EvalFleetError | None:
    """Return why there is no answer; one that holds nothing is an error, never an answer."""
    return None if message.HasField("response") else from_status(message.status)


def outcome(message: generation_pb2.GenerateResult | StreamOutcome | EvalFleetError) -> Answer | EvalFleetError:
    """Translate one result of a batch or a stream."""
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


def continuations_request_or_error(
    model: str, question: tuple[Prompt, Sequence[str]] | EvalFleetError, priority: Priority | None
) -> generation_pb2.ScoreContinuationsRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many."""
    if isinstance(question, EvalFleetError):
        return question
    try:
        context, continuations = question
        return fitting(continuations_request(model, context, continuations, priority))
    except (TypeError, ValueError, KeyError) as error:
        return _unsendable(error)


def continuations_stream_request(
    items: Sequence[Sent[generation_pb2.ScoreContinuationsRequest]],
) -> generation_pb2.StreamScoreContinuationsRequest:
    """Put items on a stream, in one message."""
    first, *others = items
    more = [generation_pb2.StreamScoreContinuationsItem(item_id=each.item_id, request=each.request) for each in others]
    return generation_pb2.StreamScoreContinuationsRequest(item_id=first.item_id, request=first.request, more=more)


def continuations_stream_outcomes(
    message: generation_pb2.StreamScoreContinuationsResponse,
) -> tuple[ContinuationsOutcome, ...]:
    """Return the outcomes in a message."""
    return (message, *message.more)


def continuations_error_in(message: ContinuationsOutcome) -> EvalFleetError | None:
    """Return why there are no scores; an outcome that holds nothing is an error."""
    return None if message.HasField("response") else from_status(message.status)


def continuations_outcome(
    message: ContinuationsOutcome | EvalFleetError,
) -> tuple[ContinuationScore, ...] | EvalFleetError:
    """Translate one result of a stream."""
    if isinstance(message, EvalFleetError):
        return message
    return continuations_error_in(message) or continuation_scores(message.response)


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


def usage_request(page_token: str) -> generation_pb2.ListCallerUsageRequest:
    """Ask for a page of what callers have cost."""
    return generation_pb2.ListCallerUsageRequest(page_size=LARGEST_PAGE, page_token=page_token)


def caller_usage(message: generation_pb2.CallerUsage) -> CallerUsage:
    """Translate what a caller has cost."""
    return CallerUsage(
        caller=message.caller,
        request_count=message.request_count,
        cached_request_count=message.cached_request_count,
        usage=item_decoding.usage(message.usage),
        first_time=moment(message.first_time) if message.HasField("first_time") else None,
        last_time=moment(message.last_time) if message.HasField("last_time") else None,
    )


def _unsendable(error: Exception) -> EvalFleetError:
    if isinstance(error, UnicodeEncodeError):
        return InvalidArgumentError("the prompt's text cannot be written as UTF-8", reason="TEXT_NOT_UTF8")
    return InvalidArgumentError(f"the prompt cannot be sent: {type(error).__name__}: {error}", reason="PROMPT_INVALID")


def _conversation(turns: Sequence[tuple[Role, str]]) -> common_pb2.Conversation:
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[role], content=text) for role, text in turns]
    )
