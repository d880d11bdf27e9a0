"""The scoring service over gRPC: quick outputs share calls, and slow ones streams, where none waits for another."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

import grpc
import grpc.aio
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from services.evaluation.judging_specification import ScorerUse
from services.evaluation.runs import translation
from services.evaluation.runs.item_streams import ItemStreams
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.retry import is_transient
from services.runtime.cache.single_flight import SingleFlight
from services.runtime.calls import current_traceparent
from services.runtime.errors import (
    FailedPreconditionError,
    FleetError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    from_rpc_error,
    from_status,
    not_found,
)
from services.runtime.gathering import Gatherer
from services.runtime.pacing import Pacer

_LARGEST_SCORE_BATCH: Final = 64
_LARGEST_BATCH_BYTES: Final = 1024 * 1024
"""A call that the service refuses for its size would fail all that are in it."""
_SCORE_PACE_SECONDS: Final = 0.02
_MOST_STREAMS: Final = 4
"""Of one run. The service handles 64 at once, of all runs, and those last as long as their runs have items."""
_TOO_LARGE: Final = "message larger than max"
"""What gRPC says, here or at the service, of a message beyond its limit."""
_LATE: Final = "SCORE_DEADLINE_EXCEEDED"
_OVER_ONE_OUTPUT: Final = ("SCORER_TIMEOUT", "JUDGE_")
"""How reasons begin of times that were up over an output by itself, not because its turn came late."""


class RemoteScorerPanel:
    """The scoring service behind a channel."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        self._stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        # Most scores take microseconds and a call a hundred times that; a stream costs twice what a batch does.
        self._gatherer = Gatherer(
            self._outcomes,
            largest=_LARGEST_SCORE_BATCH,
            pacer=Pacer(_SCORE_PACE_SECONDS),
            size=scoring_pb2.ScoreRequest.ByteSize,
            largest_size=_LARGEST_BATCH_BYTES,
        )
        self._streams: ItemStreams[scoring_pb2.ScoreRequest, scoring_pb2.ScoreResponse] = ItemStreams(
            self._stub.StreamScore,
            stream_items,
            self._score_alone,
            timeout_seconds=timeout_seconds,
            most_streams=_MOST_STREAMS,
        )
        self._takes_long: dict[str, bool] = {}
        self._learning: SingleFlight[None, None] = SingleFlight()

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
        """Apply all calls; see ``ScorerPanel.score``."""
        requests = [translation.score_request(call) for call in calls]
        for each in requests:
            each.traceparent = current_traceparent()
        try:
            await self._learn_of({request.scorer for request in requests})
        except FleetError as error:
            return [_again_if_late(error)] * len(requests)
        slow = [self._takes_long.get(request.scorer, False) for request in requests]
        if not any(slow):
            return await self._gatherer.ask(requests)
        if len(requests) == 1:
            return [await self._score_in_stream(requests[0])]
        quick = [request for request, is_slow in zip(requests, slow, strict=True) if not is_slow]
        together, streamed = await asyncio.gather(
            self._gatherer.ask(quick),
            asyncio.gather(
                *(self._score_in_stream(each) for each, is_slow in zip(requests, slow, strict=True) if is_slow)
            ),
        )
        found = iter(together), iter(streamed)
        return [next(found[is_slow]) for is_slow in slow]

    async def check(self, uses: Sequence[ScorerUse]) -> None:
        """Ask for what runs will ask for, without an output, so that nothing is judged; see ``ScorerPanel.check``."""
        await self._learn()
        known = [name.removeprefix("scorers/") for name in self._takes_long]
        for use in uses:
            if use.scorer not in known:
                raise not_found("scorer", use.scorer, known)
        for first in range(0, len(uses), _LARGEST_SCORE_BATCH):
            some = uses[first : first + _LARGEST_SCORE_BATCH]
            try:
                results = await self._score_batch([translation.parameters_request(each) for each in some])
            except FleetError as error:
                if is_transient(error) or error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return  # a busy service keeps nobody from making a run; its items will tell what is wrong
                raise
            for use, result in zip(some, results, strict=True):
                if result.WhichOneof("outcome") == "status":
                    _require_parameters(use, from_status(result.status))

    async def _learn_of(self, scorers: Collection[str]) -> None:
        """Find out about scorers that are not known here, such as one that a newer service has."""
        if self._takes_long.keys() >= set(scorers):
            return
        await self._learning.run(None, self._learn)
        for name in scorers:
            # One that the service does not know either is soon refused.
            self._takes_long.setdefault(name, False)

    async def _learn(self) -> None:
        """Find out which scorers there are, and which of them take long."""
        self._takes_long = {each.name: each.takes_long async for each in self._list()}

    async def _score_in_stream(self, request: scoring_pb2.ScoreRequest) -> ScoredOutput | FleetError:
        try:
            return translation.scored_from_proto(await self._streams.ask(request))
        except FleetError as error:
            return _again_if_late(error)

    async def _outcomes(self, requests: Sequence[scoring_pb2.ScoreRequest]) -> list[ScoredOutput | FleetError]:
        """Make one call; what it fails with is told of its own outputs alone."""
        try:
            return [_outcome(result) for result in await self._score_batch(requests)]
        except FleetError as error:
            return [_again_if_late(error) for _ in requests]

    async def _score_batch(self, requests: Sequence[scoring_pb2.ScoreRequest]) -> Sequence[scoring_pb2.ScoreResult]:
        try:
            request = scoring_pb2.BatchScoreRequest(requests=requests)
            response = await self._stub.BatchScore(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from error
        if len(response.results) != len(requests):
            raise InternalError(f"{len(response.results)} scores for {len(requests)} outputs")
        return response.results

    async def _score_alone(self, request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
        try:
            return await self._stub.Score(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise _typed(error) from error

    async def _list(self) -> AsyncIterator[scoring_pb2.Scorer]:
        request = scoring_pb2.ListScorersRequest(page_size=1000)
        try:
            while True:
                page = await self._stub.ListScorers(request, timeout=self._timeout_seconds)
                for scorer in page.scorers:
                    yield scorer
                if not page.next_page_token:
                    return
                request.page_token = page.next_page_token
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def stream_items(items: Sequence[tuple[str, scoring_pb2.ScoreRequest]]) -> scoring_pb2.StreamScoreRequest:
    """Make a stream's message of items, each an id and a request."""
    (item_id, request), *more = items
    message = scoring_pb2.StreamScoreRequest(item_id=item_id, request=request)
    for item_id, request in more:
        message.more.add(item_id=item_id, request=request)
    return message


def _typed(error: grpc.aio.AioRpcError) -> FleetError:
    """Return a call's error; of a message that is too large it is one that nobody waits out."""
    told = from_rpc_error(error)
    if _TOO_LARGE not in (error.details() or ""):
        return told
    return InvalidArgumentError(
        f"an output, or what is to be known of its item, is too large to be scored: {told.message}",
        reason="SCORE_REQUEST_TOO_LARGE",
    )


def _require_parameters(use: ScorerUse, refusal: FleetError) -> None:
    """Raise if parameters are what a scorer refuses a request for; it reads them before it misses the output."""
    wrong = tuple(each for each in refusal.field_violations if each.field.split(".")[0] == "parameters")
    if not wrong:
        return
    listed = "; ".join(f"{each.field}: {each.description}" for each in wrong)
    raise FailedPreconditionError(
        f"a task gives the scorer {use.scorer} parameters that it does not take: {listed}",
        reason="SCORER_PARAMETERS_INVALID",
        metadata={"scorer": use.scorer},
        field_violations=wrong,
    )


def _outcome(result: scoring_pb2.ScoreResult) -> ScoredOutput | FleetError:
    if result.WhichOneof("outcome") == "response":
        return translation.scored_from_proto(result.response)
    return _again_if_late(from_status(result.status))


def _again_if_late(error: FleetError) -> FleetError:
    """Return the error, as one after which an output is asked about again if its turn did not come in time.

    Whether the service says so, a stream, or a call whose own time was up.
    """
    if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED or error.reason.startswith(_OVER_ONE_OUTPUT):
        return error
    return ResourceExhaustedError(error.message, reason=_LATE, metadata=error.metadata)
