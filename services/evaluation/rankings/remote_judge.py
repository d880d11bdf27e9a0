"""The judge over gRPC."""

from typing import Final

import grpc.aio
from evalfleet.aggregation.v1 import aggregation_pb2_grpc, comparison_pb2, drawing_pb2, ranking_pb2

from services.evaluation.rankings.judge import Judged, Judgement
from services.evaluation.rankings.record import Ranking, Span, Standing
from services.runtime.errors import from_rpc_error

# A standing that this version does not know decides nothing.
_STANDINGS: Final = {
    ranking_pb2.STANDING_TOP: Standing.TOP,
    ranking_pb2.STANDING_OUT: Standing.OUT,
    ranking_pb2.STANDING_NOT_INFERIOR: Standing.NOT_INFERIOR,
    ranking_pb2.STANDING_INFERIOR: Standing.INFERIOR,
    ranking_pb2.STANDING_BASE: Standing.BASE,
    ranking_pb2.STANDING_TIED: Standing.TIED,
}


class RemoteJudge:
    """``Judge`` behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def judge(self, ranking: Ranking) -> Judgement:
        """Say what the results so far decide."""
        request = ranking_pb2.RankRunsRequest(
            runs=[each.run for each in ranking.contenders],
            task=ranking.task,
            lower_is_better=ranking.lower_is_better,
            confidence_level=ranking.confidence,
        )
        if ranking.top is not None:
            request.top = ranking.top
        if ranking.margin is not None:
            request.margin = ranking.margin
        if ranking.tolerance:
            request.tolerance = ranking.tolerance
        try:
            response = await self._stub.RankRuns(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return Judgement([_judged(each) for each in response.runs], response.compared_count, response.is_decided)


def _judged(run: ranking_pb2.RankedRun) -> Judged:
    return Judged(
        standing=_STANDINGS.get(run.standing, Standing.CONTENDING),
        decided_after=run.decided_after if run.HasField("decided_after") else None,
        value=run.value if run.HasField("value") else None,
        span=_span(run.interval),
        difference=_span(run.difference) if run.HasField("difference") else None,
        completed_count=run.completed_count,
    )


def _span(interval: drawing_pb2.AnytimeInterval | comparison_pb2.DifferenceInterval) -> Span:
    return Span(interval.lower, interval.upper, interval.confidence_level, interval.method)
