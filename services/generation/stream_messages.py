"""Between the messages of streams and the domain."""

from evalfleet.generation.v1 import generation_pb2

from services.generation import translation
from services.generation.requests import GenerationRequest, GenerationResult, Priority, ScoringResult, TextPiece
from services.generation.violations import Violations
from services.runtime.errors import to_status
from services.runtime.item_streams import Outcome


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


def generation_outcome(outcome: Outcome[GenerationResult]) -> generation_pb2.StreamGenerateResponse:
    """Write what became of one item of a stream."""
    message = generation_pb2.StreamGenerateResponse(item_id=outcome.item_id)
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.response.CopyFrom(translation.generation_response(outcome.result))
    return message


def scoring_outcome(outcome: Outcome[ScoringResult]) -> generation_pb2.StreamScoreContinuationsResponse:
    """Write what became of one item of a stream."""
    message = generation_pb2.StreamScoreContinuationsResponse(item_id=outcome.item_id)
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.response.CopyFrom(translation.scoring_response(outcome.result))
    return message


def tokens_response(event: TextPiece | GenerationResult) -> generation_pb2.GenerateTokensResponse:
    """Write what happened to an answer that is watched."""
    if isinstance(event, TextPiece):
        piece = generation_pb2.TextPiece(text=event.text, token_count=event.token_count)
        return generation_pb2.GenerateTokensResponse(piece=piece)
    return generation_pb2.GenerateTokensResponse(response=translation.generation_response(event))
