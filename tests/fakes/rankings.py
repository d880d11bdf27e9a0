"""The RankingService as clients see it, playing back a script."""

from collections.abc import Iterator

import grpc
from evalfleet.aggregation.v1 import comparison_pb2, drawing_pb2
from evalfleet.aggregation.v1 import ranking_pb2 as judged_pb2
from evalfleet.evaluation.v1 import evaluation_pb2, ranking_pb2, ranking_pb2_grpc


class FakeRankings(ranking_pb2_grpc.RankingServiceServicer):
    """Answers every WatchRanking with ``script``; a state in it cuts the stream, once.

    Attributes:
        created: all requests.
        cancelled: names.
    """

    def __init__(self) -> None:
        self.created: list[ranking_pb2.CreateRankingRequest] = []
        self.cancelled: list[str] = []
        self.script: list[ranking_pb2.Ranking | grpc.StatusCode] = []

    @property
    def _last(self) -> ranking_pb2.Ranking:
        return next(each for each in reversed(self.script) if isinstance(each, ranking_pb2.Ranking))

    def CreateRanking(
        self, request: ranking_pb2.CreateRankingRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.CreateRankingResponse:
        self.created.append(request)
        return ranking_pb2.CreateRankingResponse(ranking=self._last)

    def GetRanking(
        self, request: ranking_pb2.GetRankingRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.GetRankingResponse:
        if request.name != self._last.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no ranking named {request.name}")
        return ranking_pb2.GetRankingResponse(ranking=self._last)

    def ListRankings(
        self, request: ranking_pb2.ListRankingsRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.ListRankingsResponse:
        return ranking_pb2.ListRankingsResponse(rankings=[self._last])

    def CancelRanking(
        self, request: ranking_pb2.CancelRankingRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.CancelRankingResponse:
        self.cancelled.append(request.name)
        self._last.state = evaluation_pb2.RUN_STATE_CANCELLED
        return ranking_pb2.CancelRankingResponse(ranking=self._last)

    def WatchRanking(
        self, request: ranking_pb2.WatchRankingRequest, context: grpc.ServicerContext
    ) -> Iterator[ranking_pb2.WatchRankingResponse]:
        for each in list(self.script):
            if not isinstance(each, ranking_pb2.Ranking):
                self.script.remove(each)
                context.abort(each, "")
            yield ranking_pb2.WatchRankingResponse(ranking=each)


def make_ranking(
    *, margin: float | None = None, tolerance: float | None = None, is_done: bool = True
) -> ranking_pb2.Ranking:
    """Make a ranking of two models with 500 items; the second is the better one, or no worse, or leads in a tie."""

    def contender(
        number: int, standing: judged_pb2.Standing.ValueType, value: float, count: int
    ) -> ranking_pb2.Contender:
        interval = drawing_pb2.AnytimeInterval(
            lower=value - 0.1, upper=value + 0.1, confidence_level=0.975, method="betting-without-replacement"
        )
        return ranking_pb2.Contender(
            model=f"models/step-{number}00",
            run=f"runs/r{number}",
            standing=standing if is_done else judged_pb2.STANDING_CONTENDING,
            decided_after=count if is_done else None,
            interval=interval,
            value=value,
            evaluated_count=count,
        )

    standings = (
        (judged_pb2.STANDING_OUT, judged_pb2.STANDING_TOP)
        if margin is None
        else (judged_pb2.STANDING_BASE, judged_pb2.STANDING_NOT_INFERIOR)
    )
    if tolerance is not None:
        standings = (judged_pb2.STANDING_TIED, judged_pb2.STANDING_TOP)
    ranking = ranking_pb2.Ranking(
        name="rankings/rank-1",
        suite="suites/demo",
        task="arithmetic",
        metric="exact_match",
        confidence=0.95,
        contenders=[contender(1, standings[0], 0.25, 96), contender(2, standings[1], 0.75, 104)],
        state=evaluation_pb2.RUN_STATE_SUCCEEDED if is_done else evaluation_pb2.RUN_STATE_RUNNING,
        stop_reason=evaluation_pb2.STOP_REASON_DECIDED if is_done else evaluation_pb2.STOP_REASON_UNSPECIFIED,
        is_decided=is_done,
        item_count=500,
        compared_count=96,
        tolerance=tolerance,
    )
    if margin is None:
        ranking.top = 1
    else:
        ranking.margin = margin
        difference = comparison_pb2.DifferenceInterval(lower=-0.005, upper=0.02, confidence_level=0.95, method="m")
        ranking.contenders[1].difference.CopyFrom(difference)
    return ranking
