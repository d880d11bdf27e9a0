"""Writes the messages of StreamScore."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evalfleet.scoring.v1 import scoring_pb2

from services.runtime.item_streams import Outcome
from services.runtime.outcome_messages import outcome_messages
from services.scoring.errors import ScoreLateError
from services.scoring.judging import Judged
from services.scoring.messages import response_to_proto


def outcomes_to_proto(group: Sequence[Outcome[Judged]], *, together: bool) -> Iterator[scoring_pb2.StreamScoreResponse]:
    """Write what became of some items of a stream, together if its caller takes that."""
    return outcome_messages(
        map(_with_late_error, group), scoring_pb2.StreamScoreResponse, response_to_proto, together=together
    )


def _with_late_error(outcome: Outcome[Judged]) -> Outcome[Judged]:
    return replace(outcome, result=ScoreLateError()) if isinstance(outcome.result, TimeoutError) else outcome
