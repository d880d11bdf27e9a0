"""Writes the messages of StreamScore."""

from collections.abc import Iterator, Sequence
from typing import Final

from evalfleet.scoring.v1 import scoring_pb2
from google.rpc import status_pb2

from services.runtime.item_streams import Outcome
from services.scoring.judging import Judged
from services.scoring.messages import outcome_to_proto

_LARGEST_GROUP_BYTES: Final = 256 * 1024
"""Nothing is added to a message that is larger than this, so that only an outcome alone can be too large to be sent."""


def outcomes_to_proto(group: Sequence[Outcome[Judged]], *, together: bool) -> Iterator[scoring_pb2.StreamScoreResponse]:
    """Write what became of some items of a stream, together if its caller takes that."""
    message: scoring_pb2.StreamScoreResponse | None = None
    part: scoring_pb2.StreamScoreResponse | scoring_pb2.StreamScoreOutcome
    size = 0
    for outcome in group:
        if message is None or not together or size > _LARGEST_GROUP_BYTES:
            if message is not None:
                yield message
            part = message = scoring_pb2.StreamScoreResponse()
            size = 0
        else:
            part = message.more.add()
        part.item_id = outcome.item_id
        told = outcome_to_proto(outcome.result)
        if isinstance(told, status_pb2.Status):
            part.status.CopyFrom(told)
        else:
            part.response.CopyFrom(told)
        size += part.ByteSize()
    if message is not None:
        yield message
