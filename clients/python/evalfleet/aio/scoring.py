"""Scores of a fleet's scorers, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from evalfleet import score_messages as messages
from evalfleet.aio.bulk import AnyIterable, answered_batches, answered_items, each_of, item_streams
from evalfleet.aio.connections import AsyncConnection
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


class AsyncScoring:
    """The scoring service's judgement of outputs: ``evalfleet.scores.Scoring``, to be awaited."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
        return self._connection.stub(scoring_pb2_grpc.ScoringServiceStub)

    async def score(
        self,
        output: ScorableOutput,
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
    ) -> Score:
        """Judge one output."""
        request = messages.score_request(output, scorer, parameters)
        answer = await self._connection.call(
            self._stub.Score, request, timeout_seconds=timeout_seconds, may_be_hedged=True
        )
        return score_from_message(answer)

    async def score_batch(
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

        async def ask(some: list[scoring_pb2.ScoreRequest]) -> Sequence[scoring_pb2.ScoreResult]:
            batch = scoring_pb2.BatchScoreRequest(requests=some)
            answer = await self._connection.call(
                self._stub.BatchScore, batch, timeout_seconds=timeout_seconds, may_be_hedged=True
            )
            return answer.results

        return [messages.outcome(each) for each in await answered_batches(requests, ask, largest=LARGEST_BATCH)]

    async def score_many(
        self,
        outputs: AnyIterable[ScorableOutput | EvalFleetError],
        *,
        scorer: str = "",
        parameters: Mapping[str, object] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
    ) -> AsyncGenerator[tuple[int, Score | EvalFleetError], None]:
        """Yield (index of the output, its score or error), once each, in the order in which they are ready.

        There may be any number of outputs, in any iterable or asynchronous iterator: no more are held than ``window``.
        The other arguments are those of ``Scoring.score_many``. Use ``contextlib.aclosing`` where the loop may be left
        early: closing it stops the scorers' work.
        """
        requests = (messages.score_request_or_error(each, scorer, parameters) async for each in each_of(outputs))
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
        async with aclosing(outcomes):
            async for index, outcome in outcomes:
                yield index, messages.outcome(outcome)

    async def scorers(self) -> tuple[Scorer, ...]:
        """Return the scorers of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListScorers, messages.scorers_request)
        return tuple([scorer_from_message(each) async for page in pages for each in page.scorers])

    async def scorer(self, name: str) -> Scorer:
        """Return one scorer; its name may be shortened to the part behind ``scorers/``."""
        request = scoring_pb2.GetScorerRequest(name=full_name("scorers", name))
        answer = await self._connection.call(self._stub.GetScorer, request, may_be_hedged=True)
        return scorer_from_message(answer.scorer)
