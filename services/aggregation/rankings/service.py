"""The gRPC face of rankings: validate, translate, judge, translate back."""

from collections.abc import Iterator
from typing import Final

from evalfleet.aggregation.v1 import comparison_pb2, ranking_pb2

from services.aggregation.drawings.messages import interval_to_proto
from services.aggregation.errors import InvalidLedgerRequestError
from services.aggregation.intervals import DEFAULT_CONFIDENCE_LEVEL
from services.aggregation.rankings.judging import RankedRun, RankedRuns, RankingDesk, RankQuestion, Standing

MOST_RUNS: Final = 32

_STANDINGS: Final = {
    Standing.CONTENDING: ranking_pb2.STANDING_CONTENDING,
    Standing.TOP: ranking_pb2.STANDING_TOP,
    Standing.OUT: ranking_pb2.STANDING_OUT,
    Standing.NOT_INFERIOR: ranking_pb2.STANDING_NOT_INFERIOR,
    Standing.INFERIOR: ranking_pb2.STANDING_INFERIOR,
    Standing.BASE: ranking_pb2.STANDING_BASE,
    Standing.TIED: ranking_pb2.STANDING_TIED,
}


class RankingCalls:
    """Answers the call of ``AggregationService`` that ranks runs.

    Args:
        desk: judges them.
    """

    def __init__(self, desk: RankingDesk) -> None:
        self._desk = desk

    async def rank(self, request: ranking_pb2.RankRunsRequest) -> ranking_pb2.RankRunsResponse:
        """Judge runs."""
        for field, problem in _problems(request):
            raise InvalidLedgerRequestError(field, problem)
        level = request.confidence_level if request.HasField("confidence_level") else DEFAULT_CONFIDENCE_LEVEL
        has_top = request.WhichOneof("question") == "top"
        question = RankQuestion(
            runs=tuple(request.runs),
            task=request.task,
            top=request.top if has_top else None,
            margin=None if has_top else request.margin,
            lower_is_better=request.lower_is_better,
            confidence_level=level,
            tolerance=request.tolerance,
        )
        return _ranked_to_proto(await self._desk.judge(question))


def _problems(request: ranking_pb2.RankRunsRequest) -> Iterator[tuple[str, str]]:
    count = len(request.runs)
    if not 2 <= count <= MOST_RUNS:
        yield "runs", f"has {count} entries; 2 to {MOST_RUNS} can be ranked"
    for index, run in enumerate(request.runs):
        if not run.startswith("runs/") or run == "runs/":
            yield f"runs[{index}]", f"is {run[:80]!r}; write runs/{{run}}"
    if len(set(request.runs)) < count:
        yield "runs", "names a run twice"
    if not request.task:
        yield "task", "is empty"
    match request.WhichOneof("question"):
        case "top":
            if not 1 <= request.top < count:
                yield "top", f"is {request.top}; it lies from 1 to below the {count} runs"
        case "margin":
            if not 0 <= request.margin < 1:
                yield "margin", f"is {request.margin}; it lies from 0 to below 1"
        case _:
            yield "question", "set top or margin"
    yield from _problems_with_tolerance(request)
    if request.HasField("confidence_level") and not 0.5 <= request.confidence_level < 1:
        yield "confidence_level", f"is {request.confidence_level}; it lies from 0.5 to below 1"


def _problems_with_tolerance(request: ranking_pb2.RankRunsRequest) -> Iterator[tuple[str, str]]:
    if not 0 <= request.tolerance < 1:
        yield "tolerance", f"is {request.tolerance}; it lies from 0 to below 1"
    elif request.tolerance and request.WhichOneof("question") != "top":
        yield "tolerance", "goes with top; a margin says itself what may be worse by how much"


def _ranked_to_proto(ranked: RankedRuns) -> ranking_pb2.RankRunsResponse:
    return ranking_pb2.RankRunsResponse(
        runs=[_run_to_proto(each) for each in ranked.runs],
        compared_count=ranked.compared_count,
        item_count=ranked.item_count,
        is_decided=ranked.is_decided,
    )


def _run_to_proto(ranked: RankedRun) -> ranking_pb2.RankedRun:
    drawn, difference = ranked.drawn, ranked.difference
    return ranking_pb2.RankedRun(
        run=drawn.spec.run,
        standing=_STANDINGS[ranked.standing],
        decided_after=ranked.decided_after,
        interval=interval_to_proto(drawn.decision),
        value=drawn.decision.value,
        completed_count=len(drawn.low),
        evaluated_count=drawn.decision.evaluated_count,
        difference=None
        if difference is None
        else comparison_pb2.DifferenceInterval(
            lower=difference.lower,
            upper=difference.upper,
            confidence_level=difference.confidence_level,
            method=difference.method,
        ),
    )
