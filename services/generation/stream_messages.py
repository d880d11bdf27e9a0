"""Between the messages of streams and the domain."""

from collections.abc import Iterator, Sequence

from evalfleet.generation.v1 import generation_pb2

from services.generation import translation
from services.generation.requests import GenerationRequest, GenerationResult, Priority, ScoringResult, TextPiece
from services.generation.violations import Violations
from services.runtime.item_streams import Outcome
from services.runtime.outcome_messages import outcome_messages


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
    return outcome_messages(
        group, generation_pb2.StreamGenerateResponse, translation.generation_response, together=together
    )


def scoring_outcomes(
    group: Sequence[Outcome[ScoringResult]], *, together: bool
) -> Iterator[generation_pb2.StreamScoreContinuationsResponse]:
    """Write what became of some items of a stream, together if its caller takes that."""
    return outcome_messages(
        group, generation_pb2.StreamScoreContinuationsResponse, translation.scoring_response, together=together
    )


def tokens_response(event: TextPiece | GenerationResult) -> generation_pb2.GenerateTokensResponse:
    """Write what happened to an answer that is watched."""
    if isinstance(event, TextPiece):
        piece = generation_pb2.TextPiece(text=event.text, token_count=event.token_count)
        return generation_pb2.GenerateTokensResponse(piece=piece)
    return generation_pb2.GenerateTokensResponse(response=translation.generation_response(event))
