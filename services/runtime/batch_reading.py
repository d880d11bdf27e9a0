"""Batches as they come off the wire; a request that cannot be read is one with an error, not the end of its batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message
from grpc_reflection.v1alpha import reflection_pb2

from services.runtime.malformed import MalformedRequestError

BatchT = TypeVar("BatchT", bound=Message)
RequestT = TypeVar("RequestT", bound=Message)


@dataclass(frozen=True, slots=True)
class SalvagedBatch(Generic[RequestT]):
    """What could be read of a batch.

    Attributes:
        requests: in their order; an error in place of each that is no message, or not UTF-8.
    """

    requests: Sequence[RequestT | MalformedRequestError]


def batch_reader(
    method: str, batch: type[BatchT], request: type[RequestT]
) -> Callable[[bytes], BatchT | SalvagedBatch[RequestT]]:
    """Return what reads the batches of a method; if their parser refuses one, request by request.

    It raises DecodeError where not even the requests can be told apart.

    Args:
        method: ``package.Service/Method``, for the error.
        batch: the method's message; its field 1 holds the requests.
        request: the message of one of them.
    """

    def read_one(received: bytes) -> RequestT | MalformedRequestError:
        try:
            return request.FromString(received)
        except DecodeError:
            return MalformedRequestError(method, received)

    def read(received: bytes) -> BatchT | SalvagedBatch[RequestT]:
        try:
            return batch.FromString(received)
        except DecodeError:
            # This message's field 1 is repeated, too, but bytes: it parts the requests without looking into them.
            parts = reflection_pb2.FileDescriptorResponse.FromString(received).file_descriptor_proto
            return SalvagedBatch([read_one(part) for part in parts])

    return read
