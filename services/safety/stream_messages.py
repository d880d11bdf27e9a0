"""Writes the messages of StreamClassify."""

from evalfleet.safety.v1 import safety_pb2

from services.runtime.errors import to_status
from services.safety.messages import verdict_to_proto
from services.safety.rolling import Told, place_of


def told_to_proto(told: Told) -> safety_pb2.StreamClassifyResponse:
    """Return what became of an item of a stream, or of a response so far, as the contract's message."""
    outcome = told.outcome
    place = place_of(outcome)
    message = safety_pb2.StreamClassifyResponse(
        item_id=outcome.item_id,
        final=place is None or place.is_final,
        judged_characters=place.characters if place else 0,
        current_verdict=verdict_to_proto(told.current) if told.current else None,
    )
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.verdict.CopyFrom(verdict_to_proto(outcome.result))
    return message
