"""Scores of a fleet's scorers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from google.protobuf import json_format

from evalfleet.bulk import answered_batches, answered_sendable_items
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.errors import EvalFleetError, InvalidArgumentError, from_status
from evalfleet.names import full_name
from evalfleet.scorer_results import Score, Scorer, score_from_message, scorer_from_message
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

LARGEST_BATCH = 256
BATCH_TIMEOUT_SECONDS = 300.0
PATIENCE_SECONDS = 60.0

ScorableOutput: TypeAlias = Mapping[str, object]
"""An output and what is known of its item: the fields of ``ScoreRequest`` by their names, as in JSON.

For example ``{"text": "It is Paris.", "targets": ["Paris"]}``; an output may bring its own ``scorer`` and
``parameters``, which then replace those of the call.
"""


class Scoring:
    """The scoring service's judgement of outputs.

    All ways to ask take the name of a scorer, which may be shortened to the part behind ``scorers/``, and its
    ``parameters``; what is absent takes its default.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = scoring_pb2_grpc.ScoringServiceStub(connection.channel)

    def score(
        self,
        output: ScorableOutput,
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> Score:
        """Judge one output."""
        request = _request(output, scorer, parameters or {})
        return score_from_message(self._connection.call(self._stub.Score, request, timeout_seconds=timeout_seconds))

    def score_batch(
        self,
        outputs: Sequence[ScorableOutput],
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> list[Score | EvalFleetError]:
        """Judge each output; one score or error each, in their order.

        Any number may be given; each call of the service carries up to 256 and takes up to ``timeout_seconds``.
        """
        requests = (_request_or_error(each, scorer, parameters or {}) for each in outputs)

        def ask(some: list[scoring_pb2.ScoreRequest]) -> Sequence[scoring_pb2.ScoreResult]:
            batch = scoring_pb2.BatchScoreRequest(requests=some)
            return self._connection.call(self._stub.BatchScore, batch, timeout_seconds=timeout_seconds).results

        return [_outcome(each) for each in answered_batches(requests, ask, largest=LARGEST_BATCH)]

    def score_many(
        self,
        outputs: Iterable[ScorableOutput],
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Iterator[tuple[int, Score | EvalFleetError]]:
        """Yield (index of the output, its score or error), in the order in which they are ready.

        Outputs are read as fast as the service takes them, so there may be any number. A service that is restarted
        meanwhile is waited for, up to ``patience_seconds``; leaving the loop stops the scorers' work.
        """
        requests = (_request_or_error(each, scorer, parameters or {}) for each in outputs)

        def exchange(
            items: Iterator[tuple[int, scoring_pb2.ScoreRequest]],
        ) -> Iterator[scoring_pb2.StreamScoreResponse]:
            messages = (scoring_pb2.StreamScoreRequest(item_id=str(number), request=each) for number, each in items)
            return self._connection.exchange(self._stub.StreamScore, messages)

        for index, outcome in answered_sendable_items(requests, exchange, patience_seconds=patience_seconds):
            yield index, _outcome(outcome)

    def scorers(self) -> tuple[Scorer, ...]:
        """Return the scorers of the service, ordered by name."""
        pages = self._connection.pages(
            self._stub.ListScorers,
            lambda token: scoring_pb2.ListScorersRequest(page_size=LARGEST_PAGE, page_token=token),
        )
        return tuple(scorer_from_message(each) for page in pages for each in page.scorers)

    def scorer(self, name: str) -> Scorer:
        """Return one scorer; its name may be shortened to the part behind ``scorers/``."""
        request = scoring_pb2.GetScorerRequest(name=full_name("scorers", name))
        return scorer_from_message(self._connection.call(self._stub.GetScorer, request).scorer)


def _request(output: ScorableOutput, scorer: str, parameters: Mapping[str, object]) -> scoring_pb2.ScoreRequest:
    given = {"parameters": dict(parameters), **output}
    named = given.get("scorer", scorer)
    if not isinstance(named, str) or not named:
        raise InvalidArgumentError("the output says no scorer, and none is given for all", reason="SCORER_MISSING")
    try:
        return json_format.ParseDict(given | {"scorer": full_name("scorers", named)}, scoring_pb2.ScoreRequest())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the output cannot be sent: {error}", reason="OUTPUT_INVALID") from None


def _request_or_error(
    output: ScorableOutput, scorer: str, parameters: Mapping[str, object]
) -> scoring_pb2.ScoreRequest | EvalFleetError:
    """Return the request, or what is wrong with this one of many: it must not keep the others from being judged."""
    try:
        return _request(output, scorer, parameters)
    except EvalFleetError as error:
        return error


def _outcome(
    message: scoring_pb2.ScoreResult | scoring_pb2.StreamScoreResponse | EvalFleetError,
) -> Score | EvalFleetError:
    """Translate one result of a batch or a stream; one that holds nothing is an error, never a score."""
    if isinstance(message, EvalFleetError):
        return message
    return score_from_message(message.response) if message.HasField("response") else from_status(message.status)
