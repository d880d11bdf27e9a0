"""Writes the messages of StreamClassify."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from evalfleet.safety.v1 import safety_pb2

from services.runtime.errors import to_status
from services.runtime.outcome_messages import outcome_messages
from services.safety.messages import verdict_to_proto
from services.safety.rolling import Place, Told, place_of


def told_to_proto(group: Sequence[Told], *, together: bool) -> Iterator[safety_pb2.StreamClassifyResponse]:
    """Write what became of some items of a stream, in their order.

    Args:
        group: whole turns, and verdicts on responses so far, each of which has a message of its own.
        together: the caller takes several whole turns a message.
    """
    for is_whole, some in groupby(group, lambda told: place_of(told.outcome) is None):
        if is_whole:
            yield from outcome_messages(
                (told.outcome for told in some),
                partial(safety_pb2.StreamClassifyResponse, final=True),
                verdict_to_proto,
                together=together,
                field="verdict",
            )
        else:
            yield from map(_growing_to_proto, some)


def _growing_to_proto(told: Told) -> safety_pb2.StreamClassifyResponse:
    """Return what became of a response so far."""
    outcome = told.outcome
    place = place_of(outcome)
    assert isinstance(place, Place)
    message = safety_pb2.StreamClassifyResponse(
        item_id=outcome.item_id,
        final=place.is_final,
        judged_characters=place.characters,
        current_verdict=verdict_to_proto(told.current) if told.current else None,
    )
    if isinstance(outcome.result, BaseException):
        message.status.CopyFrom(to_status(outcome.result))
    else:
        message.verdict.CopyFrom(verdict_to_proto(outcome.result))
    return message
