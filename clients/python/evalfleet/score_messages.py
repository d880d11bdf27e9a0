"""Between outputs and scores as plain values and the scoring service's messages."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from google.protobuf import json_format

from evalfleet.connections import LARGEST_PAGE
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.message_sizes import fitting
from evalfleet.names import full_name
from evalfleet.scorer_results import Score, score_from_message
from evalfleet.scoring.v1 import scoring_pb2
from evalfleet.window import Sent

LARGEST_BATCH: Final = 256
BATCH_TIMEOUT_SECONDS: Final = 300.0
PATIENCE_SECONDS: Final = 60.0
SILENCE_SECONDS: Final = 360.0
"""Longer than an item of a stream may take, by default."""

StreamOutcome: TypeAlias = scoring_pb2.StreamScoreResponse | scoring_pb2.StreamScoreOutcome

ScorableOutput: TypeAlias = Mapping[str, object]
"""An output and what is known of its item: the fields of ``ScoreRequest`` by their names, as in JSON.

For example ``{"text": "It is Paris.", "targets": ["Paris"]}``; an output may bring its own ``scorer`` and
``parameters``, which then replace those of the call.
"""


def score_request(
    output: ScorableOutput, scorer: str, parameters: Mapping[str, object] | None
) -> scoring_pb2.ScoreRequest:
    """Ask for a score.

    Raises:
        InvalidArgumentError: the output has no scorer, or fields that no request has.
    """
    given = {"parameters": dict(parameters or {}), **output}
    named = given.get("scorer", scorer)
    if not isinstance(named, str) or not named:
        raise InvalidArgumentError("the output says no scorer, and none is given for all", reason="SCORER_MISSING")
    try:
        return json_format.ParseDict(given | {"scorer": full_name("scorers", named)}, scoring_pb2.ScoreRequest())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the output cannot be sent: {error}", reason="OUTPUT_INVALID") from None


def score_request_or_error(
    output: ScorableOutput | EvalFleetError, scorer: str, parameters: Mapping[str, object] | None
) -> scoring_pb2.ScoreRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being judged."""
    if isinstance(output, EvalFleetError):
        return output
    try:
        return fitting(score_request(output, scorer, parameters))
    except EvalFleetError as error:
        return error


def stream_request(items: Sequence[Sent[scoring_pb2.ScoreRequest]]) -> scoring_pb2.StreamScoreRequest:
    """Put items on a stream, in one message."""
    first, *others = items
    more = [scoring_pb2.StreamScoreItem(item_id=each.item_id, request=each.request) for each in others]
    return scoring_pb2.StreamScoreRequest(item_id=first.item_id, request=first.request, more=more)


def stream_outcomes(message: scoring_pb2.StreamScoreResponse) -> tuple[StreamOutcome, ...]:
    """Return the outcomes in a message."""
    return (message, *message.more)


def error_in(message: scoring_pb2.ScoreResult | StreamOutcome) -> EvalFleetError | None:
    """Return why there is no score; one that holds nothing is an error, never a score."""
    return None if message.HasField("response") else from_status(message.status)


def outcome(message: scoring_pb2.ScoreResult | StreamOutcome | EvalFleetError) -> Score | EvalFleetError:
    """Translate one result of a batch or a stream."""
    if isinstance(message, EvalFleetError):
        return message
    return error_in(message) or score_from_message(message.response)


def scorers_request(page_token: str) -> scoring_pb2.ListScorersRequest:
    """Ask for a page of scorers."""
    return scoring_pb2.ListScorersRequest(page_size=LARGEST_PAGE, page_token=page_token)
