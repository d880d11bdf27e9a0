"""The scoring service's gRPC face: validate, translate, judge, translate back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from services.runtime.batch_reading import SalvagedBatch, batch_reader
from services.runtime.errors import FieldViolation
from services.runtime.item_reading import ITEM_GROUPS_METADATA, ItemReader
from services.runtime.item_streams import ItemStream, StreamLimits
from services.runtime.malformed import MalformedRequestError
from services.runtime.pacing import Pacer
from services.runtime.pagination import paginate
from services.runtime.server import HostedService
from services.runtime.telemetry.spans import item_spans
from services.scoring.admission import Admission
from services.scoring.errors import InvalidBatchError
from services.scoring.judging import Assignment, Judging
from services.scoring.messages import (
    item_from_proto,
    output_from_proto,
    parameters_from_proto,
    response_to_proto,
    result_to_proto,
    scorer_to_proto,
)
from services.scoring.pool.pool import ScorerPool
from services.scoring.registry import BoundScorer, ScorerRegistry
from services.scoring.stream_messages import outcomes_to_proto

FULL_NAME = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name
MAX_BATCH_REQUESTS = 256
DECODERS = {
    "BatchScore": batch_reader(f"{FULL_NAME}/BatchScore", scoring_pb2.BatchScoreRequest, scoring_pb2.ScoreRequest)
}
"""Methods whose requests are read in parts: see ``batch_reading``."""
UNBOUNDED_METHODS = frozenset({"StreamScore"})
"""Streams that may last as long as their caller likes; each of their items has a limit of its own."""
DEFAULT_STREAM_LIMITS: Final = StreamLimits(in_flight=256, item_seconds=300.0)
_PACE_SECONDS: Final = 0.005
_LARGEST_GROUP: Final = 256
"""Outcomes of one message of a stream."""
_REMEMBERED_BINDINGS: Final = 256


class ScoringServicer(scoring_pb2_grpc.ScoringServiceServicer):
    """Judges outputs with the scorers of a registry.

    Args:
        registry: of the scorers.
        judging: runs them.
        stream_limits: bounds on a stream's items.
    """

    def __init__(
        self, registry: ScorerRegistry, judging: Judging, stream_limits: StreamLimits = DEFAULT_STREAM_LIMITS
    ) -> None:
        self._registry = registry
        self._judging = judging
        self._stream_limits = stream_limits

    async def Score(
        self,
        request: scoring_pb2.ScoreRequest,
        context: grpc.aio.ServicerContext[scoring_pb2.ScoreRequest, scoring_pb2.ScoreResponse],
    ) -> scoring_pb2.ScoreResponse:
        """Judge one output."""
        return response_to_proto(await self._judging.judge(request, _RequestReader(self._registry).read))

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
        with item_spans("BatchScore/item", map(_trace, request.requests)):
            outcomes = await self._judging.judge_each(request.requests, _RequestReader(self._registry).read)
        return scoring_pb2.BatchScoreResponse(results=[result_to_proto(each) for each in outcomes])

    async def StreamScore(
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[scoring_pb2.StreamScoreResponse, None]:
        """Judge every item of a stream, each with an outcome of its own."""
        await context.send_initial_metadata(ITEM_GROUPS_METADATA)
        reader = ItemReader(context, _as_it_is, scoring_pb2.StreamScoreItem)
        async with (
            aclosing(reader.items()) as items,
            self._judging.open_stream(_RequestReader(self._registry).read) as judge,
        ):
            stream = ItemStream(items, judge, self._stream_limits, name="StreamScore/item")
            pacer = Pacer(_PACE_SECONDS)
            delay = partial(_delay_seconds, reader, pacer)
            async with aclosing(stream.groups(largest=_LARGEST_GROUP, delay_seconds=delay)) as groups:
                async for group in groups:
                    pacer.sent(len(group))
                    for message in outcomes_to_proto(group, together=reader.has_groups):
                        yield message

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


def hosted(
    registry: ScorerRegistry,
    judging: Judging | None = None,
    *,
    stream_limits: StreamLimits = DEFAULT_STREAM_LIMITS,
) -> HostedService:
    """Return what a server needs to serve these scorers.

    Args:
        registry: of the scorers.
        judging: runs them; default: with the default limits, its processes ending with this one.
        stream_limits: bounds on a stream's items.
    """
    judging = judging or Judging(ScorerPool(), Admission())
    servicer = ScoringServicer(registry, judging, stream_limits)
    return HostedService(
        FULL_NAME,
        lambda server: scoring_pb2_grpc.add_ScoringServiceServicer_to_server(servicer, server),
        unbounded_methods=UNBOUNDED_METHODS,
        decoders=DECODERS,
        work=judging.work,
    )


def _trace(request: scoring_pb2.ScoreRequest | MalformedRequestError) -> tuple[str, str]:
    return ("", "") if isinstance(request, MalformedRequestError) else (request.traceparent, "")


def _as_it_is(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreRequest:
    """A request is read where it is judged, in a thread: a large pattern takes time to compile."""
    return request


def _delay_seconds(reader: ItemReader[Any], pacer: Pacer) -> float:
    """How long an outcome may wait for others, which helps only callers that take several outcomes a message."""
    return pacer.delay_seconds() if reader.has_groups else 0.0


class _RequestReader:
    """Reads the requests of one call, in several threads; remembers bound scorers, since a call mostly repeats one."""

    def __init__(self, registry: ScorerRegistry) -> None:
        self._registry = registry
        self._bound: dict[tuple[str, bytes], BoundScorer] = {}

    def read(self, request: scoring_pb2.ScoreRequest | MalformedRequestError) -> Assignment:
        """Return what a request asks for.

        Raises:
            FleetError: it asks for nothing that can be judged; or it could not be read and has its error already.
        """
        if isinstance(request, MalformedRequestError):
            raise request
        return Assignment(self._bind(request), item_from_proto(request), output_from_proto(request))

    def _bind(self, request: scoring_pb2.ScoreRequest) -> BoundScorer:
        key = (request.scorer, request.parameters.SerializeToString(deterministic=True))
        bound = self._bound.get(key)
        if bound is None:
            bound = self._registry.bind(request.scorer, parameters_from_proto(request.parameters))
            if len(self._bound) >= _REMEMBERED_BINDINGS:
                # A stream may be long, and every item's parameters new.
                self._bound.clear()
            self._bound[key] = bound
        return bound
