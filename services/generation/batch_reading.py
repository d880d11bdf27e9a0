"""Batches as they come off the wire; a request that cannot be read is one with an error, not the end of its batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.generation.v1 import generation_pb2
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2

from services.runtime.malformed import MalformedRequestError

_METHOD = "evalfleet.generation.v1.GenerationService/BatchGenerate"


@dataclass(frozen=True, slots=True)
class SalvagedBatch:
    """What could be read of a batch.

    Attributes:
        requests: in their order; an error in place of each that is no message, or not UTF-8.
    """

    requests: Sequence[generation_pb2.GenerateRequest | MalformedRequestError]


def read_batch(received: bytes) -> generation_pb2.BatchGenerateRequest | SalvagedBatch:
    """Read a batch; if its parser refuses it, request by request.

    Raises:
        DecodeError: not even the requests can be told apart.
    """
    try:
        return generation_pb2.BatchGenerateRequest.FromString(received)
    except DecodeError:
        # This message's field 1 is repeated, too, but bytes: it parts the requests without looking into them.
        parts = reflection_pb2.FileDescriptorResponse.FromString(received).file_descriptor_proto
        return SalvagedBatch([_read(part) for part in parts])


def _read(received: bytes) -> generation_pb2.GenerateRequest | MalformedRequestError:
    try:
        return generation_pb2.GenerateRequest.FromString(received)
    except DecodeError:
        return MalformedRequestError(_METHOD, received)
