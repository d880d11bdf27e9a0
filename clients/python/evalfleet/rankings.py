"""Rankings of a fleet: several models on the same items, no more of them than the answer needs."""

import time
from collections.abc import Generator, Sequence

from evalfleet import ranking_messages as messages
from evalfleet.connections import Connection
from evalfleet.errors import CancelledCallError, UnavailableError
from evalfleet.evaluation.v1 import ranking_pb2, ranking_pb2_grpc
from evalfleet.goals import Budget
from evalfleet.names import full_name
from evalfleet.ranking_messages import PATIENCE_SECONDS
from evalfleet.ranking_results import Contender, Ranking, Standing

__all__ = ["Contender", "Ranking", "Rankings", "Standing"]

_RECONNECT_SECONDS = 0.5


class Rankings:
    """Rankings of the evaluation service; names may be given as ``rankings/r1`` or ``r1``."""

    def __init__(self, evaluation: Connection) -> None:
        self._connection = evaluation

    @property
    def _stub(self) -> ranking_pb2_grpc.RankingServiceStub:
        return self._connection.stub(ranking_pb2_grpc.RankingServiceStub)

    def start(
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
        """Start a ranking and return at once; it goes on without this client.

        Args:
            models: names of registered models, 2 to 32; with a margin the first is the base.
            suite: name of a suite.
            task: one of its tasks; may be left out where it has one.
            metric: one of the task's metrics; default: the primary one.
            top: how many of the best are wanted; default, where no margin is given: one.
            margin: instead: how much worse than the first model each other may be.
            tolerance: of ``top``: how much worse than others those may be that are named the best, so that models which
                are closer than that need not be told apart; default: not at all.
            confidence: 1 minus the probability of a wrong answer; default: 0.95.
            budget: what all models together may spend, such as ``"2usd,10min"``.
            concurrency: items in flight at once, all models together; default: the service's.
            item_limit: most items, the first of the seeded order; the answer is about these alone.
            seed: of the common order; default: the suite's.
            ranking_id: id of the ranking; default: chosen by the service.

        Raises:
            ValueError: top and margin are both given, or a margin and a tolerance, or the budget cannot be read.
        """
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
        return messages.ranking(self._connection.call(self._stub.CreateRanking, request).ranking)

    def get(self, name: str) -> Ranking:
        """Read one ranking."""
        request = ranking_pb2.GetRankingRequest(name=full_name("rankings", name))
        return messages.ranking(self._connection.call(self._stub.GetRanking, request, may_be_hedged=True).ranking)

    def list(self, *, limit: int = 50) -> tuple[Ranking, ...]:
        """List the newest rankings, up to 1000."""
        request = ranking_pb2.ListRankingsRequest(page_size=limit)
        return tuple(
            messages.ranking(each)
            for each in self._connection.call(self._stub.ListRankings, request, may_be_hedged=True).rankings
        )

    def cancel(self, name: str) -> Ranking:
        """Stop a ranking; what is done stays. Cancelling a finished one changes nothing."""
        request = ranking_pb2.CancelRankingRequest(name=full_name("rankings", name))
        return messages.ranking(self._connection.call(self._stub.CancelRanking, request).ranking)

    def watch(self, name: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Generator[Ranking]:
        """Yield the ranking as it stands, at once and whenever it changes, until it has ended.

        A service that is restarted meanwhile is waited for.

        Raises:
            UnavailableError: it was unreachable for ``patience_seconds``; the ranking itself may go on.
        """
        request = ranking_pb2.WatchRankingRequest(name=full_name("rankings", name))
        silent_since: float | None = None
        while True:
            try:
                for answer in self._connection.stream(self._stub.WatchRanking, request):
                    silent_since = None
                    ranking = messages.ranking(answer.ranking)
                    yield ranking
                    if ranking.state.is_final:
                        return
            except (UnavailableError, CancelledCallError):
                if silent_since is not None and time.monotonic() - silent_since > patience_seconds:
                    raise
            # A stream that ends before the ranking does belongs to a service that is draining.
            silent_since = silent_since or time.monotonic()
            time.sleep(_RECONNECT_SECONDS)
