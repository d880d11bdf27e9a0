"""Scores of a fleet's scorers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evalfleet import score_messages as messages
from evalfleet.batches import answered_batches
from evalfleet.bulk import answered_items, item_streams
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError
from evalfleet.names import full_name
from evalfleet.score_messages import (
    BATCH_TIMEOUT_SECONDS,
    LARGEST_BATCH,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    ScorableOutput,
)
from evalfleet.scorer_results import Score, Scorer, score_from_message, scorer_from_message
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from evalfleet.window import WINDOW_ITEMS

__all__ = ["ScorableOutput", "Scoring"]


class Scoring:
    """The scoring service's judgement of outputs.

    All ways to ask take the name of a scorer, which may be shortened to the part behind ``scorers/``, and its
    ``parameters``; what is absent takes its default.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> scoring_pb2_grpc.ScoringServiceStub:
        return self._connection.stub(scoring_pb2_grpc.ScoringServiceStub)

    def score(
        self,
        output: ScorableOutput,
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> Score:
        """Judge one output."""
        request = messages.score_request(output, scorer, parameters)
        answer = self._connection.call(self._stub.Score, request, timeout_seconds=timeout_seconds, may_be_hedged=True)
        return score_from_message(answer)

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
        requests = (messages.score_request_or_error(each, scorer, parameters) for each in outputs)

        def ask(some: list[scoring_pb2.ScoreRequest]) -> Sequence[scoring_pb2.ScoreResult]:
            batch = scoring_pb2.BatchScoreRequest(requests=some)
            answer = self._connection.call(
                self._stub.BatchScore, batch, timeout_seconds=timeout_seconds, may_be_hedged=True
            )
            return answer.results

        return [messages.outcome(each) for each in answered_batches(requests, ask, largest=LARGEST_BATCH)]

    def score_many(
        self,
        outputs: Iterable[ScorableOutput | EvalFleetError],
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> Iterator[tuple[int, Score | EvalFleetError]]:
        """Yield (index of the output, its score or error), once each, in the order in which they are ready.

        There may be any number of outputs: no more are held than ``window``. A service that is restarted meanwhile is
        waited for; leaving the loop stops the scorers' work.

        Args:
            outputs: read as fast as the service takes them, in a thread of its own; an error in place of one is its
                outcome.
            scorer: as in ``score``.
            parameters: as in ``score``.
            patience_seconds: longest time that the service may be away.
            silence_seconds: longest time without an outcome, after which what has none is sent again.
            in_order: yield them in the order of the outputs.
            window: most outputs that are read and whose outcome is not yielded.
        """
        requests = (messages.score_request_or_error(each, scorer, parameters) for each in outputs)
        outcomes = answered_items(
            requests,
            item_streams(self._connection, self._stub.StreamScore, messages.stream_request),
            outcomes_in=messages.stream_outcomes,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
            silence_seconds=silence_seconds,
            in_order=in_order,
            window=window,
        )
        for index, outcome in outcomes:
            yield index, messages.outcome(outcome)

    def scorers(self) -> tuple[Scorer, ...]:
        """Return the scorers of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListScorers, messages.scorers_request)
        return tuple(scorer_from_message(each) for page in pages for each in page.scorers)

    def scorer(self, name: str) -> Scorer:
        """Return one scorer; its name may be shortened to the part behind ``scorers/``."""
        request = scoring_pb2.GetScorerRequest(name=full_name("scorers", name))
        return scorer_from_message(self._connection.call(self._stub.GetScorer, request, may_be_hedged=True).scorer)
