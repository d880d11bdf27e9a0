"""The scoring service's gRPC face: validate, translate, judge in a thread, translate back."""

import asyncio
from collections.abc import Sequence

import grpc
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from services.runtime.batch_reading import SalvagedBatch, batch_reader
from services.runtime.errors import FieldViolation, to_status
from services.runtime.malformed import MalformedRequestError
from services.runtime.pagination import paginate
from services.runtime.server import HostedService
from services.scoring.errors import InvalidBatchError
from services.scoring.messages import (
    item_from_proto,
    output_from_proto,
    parameters_from_proto,
    response_to_proto,
    scorer_to_proto,
)
from services.scoring.registry import BoundScorer, ScorerRegistry

FULL_NAME = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name
MAX_BATCH_REQUESTS = 256
DECODERS = {
    "BatchScore": batch_reader(f"{FULL_NAME}/BatchScore", scoring_pb2.BatchScoreRequest, scoring_pb2.ScoreRequest)
}
"""Methods whose requests are read in parts: see ``batch_reading``."""
# A batch is judged in pieces: between two of them a cancelled or expired call ends, and its thread is free again.
_PIECE_REQUESTS = 16


class ScoringServicer(scoring_pb2_grpc.ScoringServiceServicer):
    """Judges outputs with the scorers of a registry.

    Judging runs in a thread, not on the event loop: a caller's pattern may take a second, and ``regex`` lets other
    threads run meanwhile. A process pool would cost more in copying texts than most scorers take to judge them.
    """

    def __init__(self, registry: ScorerRegistry) -> None:
        self._registry = registry

    async def Score(
        self,
        request: scoring_pb2.ScoreRequest,
        context: grpc.aio.ServicerContext[scoring_pb2.ScoreRequest, scoring_pb2.ScoreResponse],
    ) -> scoring_pb2.ScoreResponse:
        """Judge one output."""
        return await asyncio.to_thread(_Judging(self._registry).judge, request)

    async def BatchScore(
        self,
        request: scoring_pb2.BatchScoreRequest | SalvagedBatch[scoring_pb2.ScoreRequest],
        context: grpc.aio.ServicerContext[scoring_pb2.BatchScoreRequest, scoring_pb2.BatchScoreResponse],
    ) -> scoring_pb2.BatchScoreResponse:
        """Judge many outputs; one that cannot be judged leaves the others alone."""
        count = len(request.requests)
        if not 1 <= count <= MAX_BATCH_REQUESTS:
            raise InvalidBatchError(
                f"a batch holds 1 to {MAX_BATCH_REQUESTS} requests, this one {count}; split it",
                metadata={"limit": str(MAX_BATCH_REQUESTS), "requests": str(count)},
                field_violations=(FieldViolation("requests", f"has {count} entries"),),
            )
        judging = _Judging(self._registry)
        response = scoring_pb2.BatchScoreResponse()
        for start in range(0, count, _PIECE_REQUESTS):
            piece = request.requests[start : start + _PIECE_REQUESTS]
            response.results.extend(await asyncio.to_thread(judging.judge_each, piece))
        return response

    async def ListScorers(
        self,
        request: scoring_pb2.ListScorersRequest,
        context: grpc.aio.ServicerContext[scoring_pb2.ListScorersRequest, scoring_pb2.ListScorersResponse],
    ) -> scoring_pb2.ListScorersResponse:
        """List the scorers, ordered by name."""
        page = paginate(
            self._registry.scorers,
            key=lambda scorer: scorer.about.name,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListScorers",
        )
        return scoring_pb2.ListScorersResponse(
            scorers=[scorer_to_proto(scorer) for scorer in page.items], next_page_token=page.next_page_token
        )

    async def GetScorer(
        self,
        request: scoring_pb2.GetScorerRequest,
        context: grpc.aio.ServicerContext[scoring_pb2.GetScorerRequest, scoring_pb2.GetScorerResponse],
    ) -> scoring_pb2.GetScorerResponse:
        """Read one scorer."""
        return scoring_pb2.GetScorerResponse(scorer=scorer_to_proto(self._registry.find(request.name)))


def hosted(registry: ScorerRegistry) -> HostedService:
    """Return what a server needs to serve these scorers."""
    servicer = ScoringServicer(registry)
    return HostedService(
        FULL_NAME,
        lambda server: scoring_pb2_grpc.add_ScoringServiceServicer_to_server(servicer, server),
        decoders=DECODERS,
    )


class _Judging:
    """The judging of one call; remembers bound scorers, since a batch mostly repeats one."""

    def __init__(self, registry: ScorerRegistry) -> None:
        self._registry = registry
        self._bound: dict[tuple[str, bytes], BoundScorer] = {}

    def judge(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        """Judge one request.

        Raises:
            FleetError: it cannot be judged.
        """
        bound = self._bind(request)
        return response_to_proto(bound.score(item_from_proto(request), output_from_proto(request)), bound.reference)

    def judge_each(
        self, requests: Sequence[scoring_pb2.ScoreRequest | MalformedRequestError]
    ) -> list[scoring_pb2.ScoreResult]:
        """Judge each request by itself; one that could not be read has its error already."""
        results = []
        for request in requests:
            try:
                if isinstance(request, MalformedRequestError):
                    raise request
                results.append(scoring_pb2.ScoreResult(response=self.judge(request)))
            except Exception as error:  # noqa: BLE001 - what stops one request, a bug included, leaves the others alone
                results.append(scoring_pb2.ScoreResult(status=to_status(error)))
        return results

    def _bind(self, request: scoring_pb2.ScoreRequest) -> BoundScorer:
        key = (request.scorer, request.parameters.SerializeToString(deterministic=True))
        if key not in self._bound:
            self._bound[key] = self._registry.bind(request.scorer, parameters_from_proto(request.parameters))
        return self._bound[key]
