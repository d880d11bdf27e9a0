"""The scoring service over gRPC."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

import grpc.aio
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from services.evaluation.runs import translation
from services.evaluation.runs.outcome import Usage
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.scoring_bill import usage_of, with_usage
from services.runtime.errors import (
    FleetError,
    InternalError,
    ResourceExhaustedError,
    from_rpc_error,
    from_status,
    not_found,
    to_status,
)
from services.runtime.gathering import Gatherer
from services.runtime.pacing import Pacer

_LARGEST_SCORE_BATCH: Final = 64
_SCORE_PACE_SECONDS: Final = 0.02
_SLOW: Final = ("scorers/llm_judge", "scorers/code_execution")
"""Those that wait for a model or run programs; others are found out by what they cost."""
_LATE: Final = "SCORE_DEADLINE_EXCEEDED"


class RemoteScorerPanel:
    """The scoring service behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        # Scoring takes microseconds and a call a hundred times that, so items share calls.
        self._gatherer = Gatherer(self._score_batch, largest=_LARGEST_SCORE_BATCH, pacer=Pacer(_SCORE_PACE_SECONDS))
        # Who shared a call with one of these would wait for it.
        self._slow: set[str] = set(_SLOW)

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput]:
        """Apply all calls; raises the first typed error among them, with what all of them cost."""
        requests = [translation.score_request(call) for call in calls]
        results = await self._results(requests)
        scored: list[ScoredOutput] = []
        failures: list[FleetError] = []
        for request, result in zip(requests, results, strict=True):
            if result.WhichOneof("outcome") == "response":
                scored.append(translation.scored_from_proto(result.response))
                asked_models = result.response.HasField("usage")
            else:
                failures.append(_failure(result))
                asked_models = usage_of(failures[-1]) != Usage()
            if asked_models:
                self._slow.add(request.scorer)
        if failures:
            cost = sum((each.usage for each in scored), sum(map(usage_of, failures), Usage()))
            raise with_usage(failures[0], cost)
        return scored

    async def _results(self, requests: Sequence[scoring_pb2.ScoreRequest]) -> list[scoring_pb2.ScoreResult]:
        """Return one result a request, in their order."""
        is_alone = [each.scorer in self._slow for each in requests]
        if not any(is_alone):
            return await self._gatherer.ask(requests)
        together = [each for each, alone in zip(requests, is_alone, strict=True) if not alone]
        gathered, single = await asyncio.gather(
            self._score_together(together),
            asyncio.gather(*(self._score_alone(each) for each, alone in zip(requests, is_alone, strict=True) if alone)),
        )
        found = iter(gathered), iter(single)
        return [next(found[alone]) for alone in is_alone]

    async def _score_together(self, requests: Sequence[scoring_pb2.ScoreRequest]) -> list[scoring_pb2.ScoreResult]:
        try:
            return await self._gatherer.ask(requests)
        except FleetError as error:
            # The others go on, and what they cost is booked.
            return [scoring_pb2.ScoreResult(status=to_status(error)) for _ in requests]

    async def _score_alone(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResult:
        try:
            [result] = await self._score_batch([request])
        except FleetError as error:
            # Those beside it may have cost something, which is booked with its failure.
            return scoring_pb2.ScoreResult(status=to_status(error))
        return result

    async def _score_batch(self, requests: Sequence[scoring_pb2.ScoreRequest]) -> Sequence[scoring_pb2.ScoreResult]:
        try:
            request = scoring_pb2.BatchScoreRequest(requests=requests)
            response = await self._stub.BatchScore(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        if len(response.results) != len(requests):
            raise InternalError(f"{len(response.results)} scores for {len(requests)} outputs")
        return response.results

    async def check(self, scorers: Collection[str]) -> None:
        """Raise NotFoundError if one of the named scorers does not exist."""
        known: list[str] = []
        request = scoring_pb2.ListScorersRequest(page_size=1000)
        try:
            while True:
                page = await self._stub.ListScorers(request, timeout=self._timeout_seconds)
                known += [scorer.name.removeprefix("scorers/") for scorer in page.scorers]
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        for name in scorers:
            if name not in known:
                raise not_found("scorer", name, known)


def _failure(result: scoring_pb2.ScoreResult) -> FleetError:
    """Why there is no score; one whose call was over before its turn came is asked for again."""
    error = from_status(result.status)
    if error.reason != _LATE:
        return error
    again = ResourceExhaustedError(error.message, reason=_LATE, metadata=error.metadata)
    return with_usage(again, usage_of(error))
