"""How large messages may be: one that is larger ends the whole stream that carries it, or fails its whole batch."""

from typing import Final, TypeVar

from google.protobuf.message import Message

from evalfleet.channels import MAX_MESSAGE_BYTES
from evalfleet.errors import EvalFleetError, InvalidArgumentError, ResourceExhaustedError

LARGEST_ITEM_BYTES: Final = MAX_MESSAGE_BYTES - 4096
"""Of a request among many: around it there is room for its id on a stream, and for its frame in a batch."""
FRAME_BYTES: Final = 8
"""What a request takes in a batch beside itself, at most."""

# What the libraries of gRPC say of a message that is over a limit of either side; the status has no details.
_TOO_LARGE_PHRASES: Final = ("larger than max", "exceeds maximum size")

MessageT = TypeVar("MessageT", bound=Message)


def fitting(request: MessageT) -> MessageT | EvalFleetError:
    """Return the request, or ITEM_TOO_LARGE if no message can carry it."""
    size = request.ByteSize()
    if size <= LARGEST_ITEM_BYTES:
        return request
    return InvalidArgumentError(
        f"the item takes {size} bytes; at most {LARGEST_ITEM_BYTES} can be sent", reason="ITEM_TOO_LARGE"
    )


def size_bytes(request: object) -> int:
    """Return what a request takes in a batch; what is no message takes nothing."""
    return request.ByteSize() + FRAME_BYTES if isinstance(request, Message) else 0


def is_too_large(error: EvalFleetError) -> bool:
    """Return whether a call failed because its request, or its answer, is larger than a side accepts."""
    return isinstance(error, ResourceExhaustedError) and any(each in error.message for each in _TOO_LARGE_PHRASES)


def too_large_alone(error: EvalFleetError) -> EvalFleetError:
    """Return the error of an item that is too large, or has too large an answer, even in a call of its own."""
    return InvalidArgumentError(error.message, reason="ITEM_TOO_LARGE", request_id=error.request_id)
