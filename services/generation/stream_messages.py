"""Between the messages of streams and the domain."""

from collections.abc import Iterator, Sequence
from typing import Final

from evalfleet.generation.v1 import generation_pb2

from services.generation import translation
from services.generation.requests import GenerationRequest, GenerationResult, Priority, ScoringResult, TextPiece
from services.generation.violations import Violations
from services.runtime.errors import to_status
from services.runtime.item_streams import Outcome

_LARGEST_GROUP_BYTES: Final = 256 * 1024
"""Nothing is added to a message that is larger than this, so that only an outcome alone can be too large to be sent."""


def tokens_request(message: generation_pb2.GenerateRequest) -> GenerationRequest:
    """Check and read a request to generate one answer and see it grow.

    Raises:
        InvalidArgumentError: lists every invalid field, or more than one answer is asked for.
    """
    request = translation.generation_request(message, Priority.INTERACTIVE)
    bad = Violations()
    bad.require(request.sample_count == 1, "sample_count", "must be 1: one stream carries one answer")
    bad.raise_any()
    return request


def generation_outcomes(
    group: Sequence[Outcome[GenerationResult]], *, together: bool
) -> Iterator[generation_pb2.StreamGenerateResponse]:
    """Write what became of some items of a stream, together if its caller takes that."""
    message: generation_pb2.StreamGenerateResponse | None = None
    part: generation_pb2.StreamGenerateResponse | generation_pb2.StreamGenerateOutcome
    size = 0
    for outcome in group:
        if message is None or not together or size > _LARGEST_GROUP_BYTES:
            if message is not None:
                yield message
            part = message = generation_pb2.StreamGenerateResponse()
            size = 0
        else:
            part = message.more.add()
        _write_generation(part, outcome)
        size += part.ByteSize()
    if message is not None:
        yield message


def scoring_outcomes(
    group: Sequence[Outcome[ScoringResult]], *, together: bool
) -> Iterator[generation_pb2.StreamScoreContinuationsResponse]:
    """Write what became of some items of a stream, together if its caller takes that."""
    message: generation_pb2.StreamScoreContinuationsResponse | None = None
    part: generation_pb2.StreamScoreContinuationsResponse | generation_pb2.StreamScoreContinuationsOutcome
    size = 0
    for outcome in group:
        if message is None or not together or size > _LARGEST_GROUP_BYTES:
            if message is not None:
                yield message
            part = message = generation_pb2.StreamScoreContinuationsResponse()
            size = 0
        else:
            part = message.more.add()
        _write_scoring(part, outcome)
        size += part.ByteSize()
    if message is not None:
        yield message


def _write_generation(
    message: generation_pb2.StreamGenerateResponse | generation_pb2.StreamGenerateOutcome,
    outcome: Outcome[GenerationResult],
) -> None:
    message.item_id = outcome.item_id
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.response.CopyFrom(translation.generation_response(outcome.result))


def _write_scoring(
    message: generation_pb2.StreamScoreContinuationsResponse | generation_pb2.StreamScoreContinuationsOutcome,
    outcome: Outcome[ScoringResult],
) -> None:
    message.item_id = outcome.item_id
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.response.CopyFrom(translation.scoring_response(outcome.result))


def tokens_response(event: TextPiece | GenerationResult) -> generation_pb2.GenerateTokensResponse:
    """Write what happened to an answer that is watched."""
    if isinstance(event, TextPiece):
        piece = generation_pb2.TextPiece(text=event.text, token_count=event.token_count)
        return generation_pb2.GenerateTokensResponse(piece=piece)
    return generation_pb2.GenerateTokensResponse(response=translation.generation_response(event))
