"""Writes the messages of StreamClassify."""

from evalfleet.safety.v1 import safety_pb2

from services.runtime.errors import to_status
from services.runtime.item_streams import Outcome
from services.safety.judgement import Verdict
from services.safety.messages import verdict_to_proto
from services.safety.rolling import place_of


def outcome_to_proto(outcome: Outcome[Verdict]) -> safety_pb2.StreamClassifyResponse:
    """Return what became of an item of a stream, or of a response so far, as the contract's message."""
    place = place_of(outcome)
    message = safety_pb2.StreamClassifyResponse(
        item_id=outcome.item_id,
        final=place is None or place.is_final,
        judged_characters=place.characters if place else 0,
    )
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.verdict.CopyFrom(verdict_to_proto(outcome.result))
    return message
