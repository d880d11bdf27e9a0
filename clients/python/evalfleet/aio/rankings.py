"""Rankings of a fleet, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from evalfleet import ranking_messages as messages
from evalfleet.aio.connections import AsyncConnection
from evalfleet.aio.watching import reopened
from evalfleet.evaluation.v1 import ranking_pb2, ranking_pb2_grpc
from evalfleet.goals import Budget
from evalfleet.names import full_name
from evalfleet.ranking_messages import PATIENCE_SECONDS
from evalfleet.ranking_results import Ranking


class AsyncRankings:
    """Rankings of the evaluation service: ``evalfleet.rankings.Rankings``, to be awaited."""

    def __init__(self, evaluation: AsyncConnection) -> None:
        self._connection = evaluation

    @property
    def _stub(self) -> ranking_pb2_grpc.RankingServiceAsyncStub:
        return self._connection.stub(ranking_pb2_grpc.RankingServiceStub)

    async def start(
        self,
        *,
        models: Sequence[str],
        suite: str,
        task: str = "",
        metric: str = "",
        top: int | None = None,
        margin: float | None = None,
        tolerance: float | None = None,
        confidence: float | None = None,
        budget: Budget | str | None = None,
        concurrency: int | None = None,
        item_limit: int | None = None,
        seed: int | None = None,
        ranking_id: str | None = None,
    ) -> Ranking:
        """Start a ranking and return at once; arguments and errors are those of ``Rankings.start``."""
        request = messages.create_request(
            models=models,
            suite=suite,
            task=task,
            metric=metric,
            top=top,
            margin=margin,
            tolerance=tolerance,
            confidence=confidence,
            budget=budget,
            concurrency=concurrency,
            item_limit=item_limit,
            seed=seed,
            ranking_id=ranking_id,
        )
        return messages.ranking((await self._connection.call(self._stub.CreateRanking, request)).ranking)

    async def get(self, name: str) -> Ranking:
        """Read one ranking."""
        request = ranking_pb2.GetRankingRequest(name=full_name("rankings", name))
        answer = await self._connection.call(self._stub.GetRanking, request, may_be_hedged=True)
        return messages.ranking(answer.ranking)

    async def list(self, *, limit: int = 50) -> tuple[Ranking, ...]:
        """List the newest rankings, up to 1000."""
        request = ranking_pb2.ListRankingsRequest(page_size=limit)
        answer = await self._connection.call(self._stub.ListRankings, request, may_be_hedged=True)
        return tuple(messages.ranking(each) for each in answer.rankings)

    async def cancel(self, name: str) -> Ranking:
        """Stop a ranking; what is done stays. Cancelling a finished one changes nothing."""
        request = ranking_pb2.CancelRankingRequest(name=full_name("rankings", name))
        return messages.ranking((await self._connection.call(self._stub.CancelRanking, request)).ranking)

    async def watch(self, name: str, *, patience_seconds: float = PATIENCE_SECONDS) -> AsyncGenerator[Ranking, None]:
        """Yield the ranking as it stands, at once and whenever it changes, until it has ended.

        Raises:
            UnavailableError: the service was unreachable for ``patience_seconds``; the ranking itself may go on.
        """
        request = ranking_pb2.WatchRankingRequest(name=full_name("rankings", name))
        answers = reopened(
            lambda: self._connection.stream(self._stub.WatchRanking, request), patience_seconds=patience_seconds
        )
        async with aclosing(answers):
            async for answer in answers:
                ranking = messages.ranking(answer.ranking)
                yield ranking
                if ranking.state.is_final:
                    return
