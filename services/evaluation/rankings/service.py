"""The RankingService: checks requests, asks the ranking manager, translates back."""

import contextlib
import re
from collections.abc import AsyncIterator

import grpc
from evalfleet.evaluation.v1 import ranking_pb2, ranking_pb2_grpc

from services.evaluation.checks import Violations, budget_of, is_uuid, resource_id
from services.evaluation.rankings.manager import RankingManager
from services.evaluation.rankings.messages import ranking_message
from services.evaluation.rankings.record import RankingRequest
from services.evaluation.runs.gates import DEFAULT_CONFIDENCE
from services.evaluation.scaling.refusals import Refusals
from services.runtime.pagination import checked_page_size, decode_page_token, encode_page_token

MOST_MODELS = 32
_MODEL = re.compile(r"models/[a-z0-9][a-z0-9._-]{0,62}")
_RANKING_ID = re.compile(r"[a-z]([a-z0-9-]{0,46}[a-z0-9])?")
_LARGEST_CONCURRENCY = 1024


class RankingServicer(ranking_pb2_grpc.RankingServiceServicer):
    """Serves rankings."""

    def __init__(self, manager: RankingManager, refusals: Refusals) -> None:
        self._manager = manager
        self._refusals = refusals

    async def CreateRanking(
        self,
        request: ranking_pb2.CreateRankingRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.CreateRankingRequest, ranking_pb2.CreateRankingResponse],
    ) -> ranking_pb2.CreateRankingResponse:
        """Start a ranking and return at once."""
        wished = ranking_request(request)
        with self._refusals.noting():
            ranking = await self._manager.create(wished)
        return ranking_pb2.CreateRankingResponse(ranking=ranking_message(ranking))

    async def GetRanking(
        self,
        request: ranking_pb2.GetRankingRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.GetRankingRequest, ranking_pb2.GetRankingResponse],
    ) -> ranking_pb2.GetRankingResponse:
        """Read one ranking."""
        ranking = await self._manager.get(resource_id(request.name, "rankings"))
        return ranking_pb2.GetRankingResponse(ranking=ranking_message(ranking))

    async def ListRankings(
        self,
        request: ranking_pb2.ListRankingsRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.ListRankingsRequest, ranking_pb2.ListRankingsResponse],
    ) -> ranking_pb2.ListRankingsResponse:
        """List rankings, newest first."""
        size = checked_page_size(request.page_size)
        cursor = decode_page_token(request.page_token, scope="ListRankings")
        after = None
        if cursor is not None:
            created, _, last = cursor.partition(" ")
            after = (float(created), last)
        rankings = await self._manager.page(size=size + 1, after=after)
        token = ""
        if len(rankings) > size:
            shown = rankings[size - 1]
            token = encode_page_token(f"{shown.create_time!r} {shown.ranking_id}", scope="ListRankings")
        return ranking_pb2.ListRankingsResponse(
            rankings=[ranking_message(each) for each in rankings[:size]], next_page_token=token
        )

    async def CancelRanking(
        self,
        request: ranking_pb2.CancelRankingRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.CancelRankingRequest, ranking_pb2.CancelRankingResponse],
    ) -> ranking_pb2.CancelRankingResponse:
        """Stop a ranking."""
        ranking = await self._manager.cancel(resource_id(request.name, "rankings"))
        return ranking_pb2.CancelRankingResponse(ranking=ranking_message(ranking))

    async def WatchRanking(
        self,
        request: ranking_pb2.WatchRankingRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.WatchRankingRequest, ranking_pb2.WatchRankingResponse],
    ) -> AsyncIterator[ranking_pb2.WatchRankingResponse]:
        """Stream the ranking until it has ended."""
        changes = self._manager.watch(resource_id(request.name, "rankings"))
        async with contextlib.aclosing(changes):
            async for ranking in changes:
                yield ranking_pb2.WatchRankingResponse(ranking=ranking_message(ranking))


def ranking_request(request: ranking_pb2.CreateRankingRequest) -> RankingRequest:
    """The domain's form of a request to start a ranking.

    Raises:
        InvalidArgumentError: with one violation a wrong field.
    """
    violations = Violations()
    prefix, _, suite = request.suite.partition("/")
    if prefix != "suites" or not suite:
        violations.add("suite", "must have the form suites/NAME, e.g. suites/demo")
    _check_models(request, violations)
    if request.HasField("confidence") and not 0.5 <= request.confidence <= 0.9999:
        violations.add("confidence", "must be from 0.5 to 0.9999; leave it out for 0.95")
    if request.HasField("concurrency") and not 1 <= request.concurrency <= _LARGEST_CONCURRENCY:
        violations.add("concurrency", f"must be from 1 to {_LARGEST_CONCURRENCY}; leave it out for the default")
    if request.HasField("item_limit") and request.item_limit < 1:
        violations.add("item_limit", "must be at least 1; leave it out for all items")
    if request.HasField("ranking_id") and not _RANKING_ID.fullmatch(request.ranking_id):
        violations.add("ranking_id", "must be 1 to 48 of a-z, 0-9 and -, starting with a letter, not ending with -")
    if request.HasField("request_id") and not is_uuid(request.request_id):
        violations.add("request_id", "must be a UUID")
    budget = budget_of(request.budget, violations)
    violations.raise_if_any()
    kind = request.WhichOneof("question")
    return RankingRequest(
        suite=suite,
        task=request.task,
        models=tuple(request.models),
        top=request.top if kind == "top" else None,
        margin=request.margin if kind == "margin" else None,
        metric=request.metric,
        confidence=request.confidence if request.HasField("confidence") else DEFAULT_CONFIDENCE,
        budget=budget,
        concurrency=request.concurrency if request.HasField("concurrency") else None,
        item_limit=request.item_limit if request.HasField("item_limit") else None,
        seed=request.seed if request.HasField("seed") else None,
        ranking_id=request.ranking_id if request.HasField("ranking_id") else None,
        request_id=request.request_id if request.HasField("request_id") else None,
        tolerance=request.tolerance,
    )


def _check_models(request: ranking_pb2.CreateRankingRequest, violations: Violations) -> None:
    count = len(request.models)
    if not 2 <= count <= MOST_MODELS:
        violations.add("models", f"must be 2 to {MOST_MODELS}, not {count}")
    if len(set(request.models)) < count:
        violations.add("models", "names a model twice")
    for index, model in enumerate(request.models[:MOST_MODELS]):
        if not _MODEL.fullmatch(model):
            violations.add(f"models[{index}]", "must have the form models/ID; register a checkpoint with CreateModel")
    match request.WhichOneof("question"):
        case "top":
            if not 1 <= request.top < max(2, count):
                violations.add("top", "must be at least 1 and below the number of models")
        case "margin":
            if not 0 <= request.margin < 1:
                violations.add("margin", "must be from 0 to below 1")
        case _:
            violations.add("question", "must be top or margin")
    if not 0 <= request.tolerance < 1:
        violations.add("tolerance", "must be from 0 to below 1")
    elif request.tolerance and request.WhichOneof("question") != "top":
        violations.add("tolerance", "goes with top; a margin says itself what may be worse by how much")
