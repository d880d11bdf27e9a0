"""Reads out of messages how much a caller asks, and what it was answered at what cost."""

from functools import lru_cache
from typing import Any, Final

from evalfleet.common.v1 import common_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from services.runtime.item_reading import further_items
from services.runtime.status import from_status
from services.runtime.usage import NO_USAGE, Usage, usage_of
from services.runtime.usage_messages import usage_from_proto

_USAGE: Final = common_pb2.Usage.DESCRIPTOR.full_name
_STATUS: Final = status_pb2.Status.DESCRIPTOR.full_name


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


def usage_in(message: Any) -> Usage:
    """Return what the answers in a message cost, and failed ones before they failed."""
    if not isinstance(message, Message) or not _tells_costs(message.DESCRIPTOR):
        return NO_USAGE
    found = NO_USAGE
    parts: list[Message] = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        kind = field.message_type.full_name
        if kind == _USAGE:
            # The sum: what is below says how it came about.
            return usage_from_proto(value)
        if kind == _STATUS:
            found += usage_of(from_status(value)) if value.code else NO_USAGE
        elif _tells_costs(field.message_type) and not _is_map(field):
            parts += value if field.is_repeated else [value]
    for part in parts:
        found += usage_in(part)
    return found


@lru_cache(maxsize=256)
def _tells_costs(descriptor: Descriptor) -> bool:
    """Whether messages of a type can hold costs."""
    return _holds_costs(descriptor, set())


def _holds_costs(descriptor: Descriptor, seen: set[str]) -> bool:
    if descriptor.full_name in (_USAGE, _STATUS):
        return True
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return any(_holds_costs(each.message_type, seen) for each in descriptor.fields if each.message_type)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
