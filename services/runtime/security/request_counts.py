"""Reads out of messages how much a caller asks."""

from typing import Any, Final

from evalfleet.safety.v1 import safety_pb2
from google.protobuf.message import Message

from services.runtime.item_reading import MORE_FIELD, further_items

_MORE_FIELDS: Final = (MORE_FIELD, safety_pb2.StreamClassifyRequest.DESCRIPTOR.fields_by_name["more"].number)


def requests_in(message: Any) -> int:
    """Return how many requests a message holds: those of a batch, and what travels with another in a stream.

    More text of a response that is judged as it grows is none; its opening was one.
    """
    # Not all are messages: of a batch that was damaged in part, what could be read is something like it.
    requests = getattr(message, "requests", None)
    if requests is not None:
        return max(1, len(requests))
    more = len(getattr(message, "more", ()))
    if isinstance(message, Message) and "piece" in message.DESCRIPTOR.fields_by_name and message.HasField("piece"):
        return more
    return 1 + more


def requests_in_damaged(received: bytes) -> int:
    """Return how many requests a message of a stream may hold that cannot be read as a whole, but perhaps in parts."""
    return 1 + max(len(further_items(received, field)) for field in _MORE_FIELDS)
