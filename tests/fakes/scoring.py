"""A fake of the scoring service: scores by a function, and notes what it was asked."""

from collections.abc import Callable, Iterator
from typing import NoReturn

import grpc
from evalfleet.common.v1 import common_pb2
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from google.rpc import status_pb2

from services.runtime.errors import FleetError, to_status

Judge = Callable[[scoring_pb2.ScoreRequest], scoring_pb2.ScoreResponse]


class FakeScoring(scoring_pb2_grpc.ScoringServiceServicer):
    """Answers batches with ``judge``, which may raise."""

    def __init__(self) -> None:
        self.judge: Judge = lambda request: scoring_pb2.ScoreResponse()
        self.requests: list[scoring_pb2.ScoreRequest] = []
        self.scorers = [scoring_pb2.Scorer(name="scorers/exact_match", description="The same text.")]

    def BatchScore(
        self, request: scoring_pb2.BatchScoreRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.BatchScoreResponse:
        self.requests.extend(request.requests)
        return scoring_pb2.BatchScoreResponse(results=[self._result(each) for each in request.requests])

    def Score(self, request: scoring_pb2.ScoreRequest, context: grpc.ServicerContext) -> scoring_pb2.ScoreResponse:
        _not_offered(context)

    def StreamScore(
        self, request_iterator: Iterator[scoring_pb2.StreamScoreRequest], context: grpc.ServicerContext
    ) -> Iterator[scoring_pb2.StreamScoreResponse]:
        _not_offered(context)

    def ListScorers(
        self, request: scoring_pb2.ListScorersRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.ListScorersResponse:
        return scoring_pb2.ListScorersResponse(scorers=self.scorers)

    def GetScorer(
        self, request: scoring_pb2.GetScorerRequest, context: grpc.ServicerContext
    ) -> scoring_pb2.GetScorerResponse:
        found = next((each for each in self.scorers if each.name == request.name), None)
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no scorer named {request.name!r}")
        return scoring_pb2.GetScorerResponse(scorer=found)

    def _result(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResult:
        try:
            return scoring_pb2.ScoreResult(response=self.judge(request))
        except FleetError as error:
            status: status_pb2.Status = to_status(error)
            return scoring_pb2.ScoreResult(status=status)


def verdict(votes: str, digest: str = "d1", **metrics: float) -> scoring_pb2.ScoreResponse:
    """A judge's score, with 10 computed tokens."""
    return scoring_pb2.ScoreResponse(
        metrics={"agreement": 1.0, **metrics},
        extracted_answer=votes,
        scorer=common_pb2.JudgeReference(name="scorers/llm_judge", version="1", digest=digest),
        usage=common_pb2.Usage(computed_prompt_tokens=8, computed_completion_tokens=2),
    )


def _not_offered(context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    raise AssertionError("abort raises")
