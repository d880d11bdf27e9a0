"""Reads out of messages how much a caller asks."""

from typing import Any

from google.protobuf.message import Message

from services.runtime.item_reading import further_items


def requests_in(message: Any) -> int:
    """Return how many requests a message holds: those of a batch, and what travels with another in a stream.

    More text of a response that is judged as it grows is none; its opening was one.
    """
    # Not all are messages: of a batch that was damaged in part, what could be read is something like it.
    requests = getattr(message, "requests", None)
    if requests is not None:
        return max(1, len(requests))
    if isinstance(message, Message) and "piece" in message.DESCRIPTOR.fields_by_name and message.HasField("piece"):
        return 0
    return 1 + len(getattr(message, "more", ()))


def requests_in_damaged(received: bytes) -> int:
    """Return how many requests a message of a stream may hold that cannot be read as a whole, but perhaps in parts."""
    return 1 + len(further_items(received))
