"""The aggregation service's gRPC face: validate, translate, ask the ledger, translate back."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing

import grpc
from evalfleet.aggregation.v1 import (
    aggregation_pb2,
    aggregation_pb2_grpc,
    comparison_pb2,
    drawing_pb2,
    item_analysis_pb2,
    ranking_pb2,
    regressions_pb2,
)

from services.aggregation.comparison.handlers import ComparisonHandlers
from services.aggregation.comparison.reading import LedgerAnswers
from services.aggregation.corrected_rates import GuardQuality
from services.aggregation.drawings.desk import DrawingDesk
from services.aggregation.drawings.errors import WrongDrawError
from services.aggregation.drawings.service import DrawingCalls
from services.aggregation.drawn_estimates import add_task_intervals, withhold_set_intervals
from services.aggregation.errors import InvalidLedgerRequestError, LedgerReplacedError
from services.aggregation.estimation import RunTally
from services.aggregation.intervals import DEFAULT_CONFIDENCE_LEVEL
from services.aggregation.ledger import ResultFilter, ResultLedger, SqlLedger
from services.aggregation.messages import (
    estimates_to_proto,
    lease_from_proto,
    listed_key_to_proto,
    measured_judges_from_proto,
    qualities_from_proto,
    result_to_proto,
    results_from_proto,
)
from services.aggregation.pruning_messages import policy_from_proto, pruned_to_proto
from services.aggregation.quality_judges import check_quality
from services.aggregation.rankings.judging import RankingDesk
from services.aggregation.rankings.service import RankingCalls
from services.aggregation.records import AppendCounts, ListedKey, Result, ResultKey
from services.runtime.errors import FleetError
from services.runtime.pagination import checked_page_size, decode_page_token, encode_page_token
from services.runtime.server import HostedService
from services.runtime.telemetry.spans import item_spans

FULL_NAME = aggregation_pb2.DESCRIPTOR.services_by_name["AggregationService"].full_name
DEFAULT_PAGE_RESULTS = 1000
MAX_PAGE_RESULTS = 10_000

_Listed = AsyncGenerator[Sequence[ListedKey]] | AsyncGenerator[Sequence[Result]]


class AggregationServicer(aggregation_pb2_grpc.AggregationServiceServicer):
    """Serves a ledger.

    Translating and counting run in threads, a piece at a time, so that the event loop stays free.

    Args:
        ledger: where results are.
        page_bytes: a page of ``ListResults`` ends before it grows larger than this, but holds one result at least.
        comparisons: answers the methods that set runs beside each other.
    """

    def __init__(self, ledger: ResultLedger, *, page_bytes: int, comparisons: ComparisonHandlers) -> None:
        self._ledger = ledger
        self._comparisons = comparisons
        self._page_bytes = page_bytes
        desk = DrawingDesk(ledger.drawings)
        self._drawings = DrawingCalls(desk)
        self._rankings = RankingCalls(RankingDesk(desk))

    async def AppendResults(
        self,
        request_iterator: AsyncIterator[aggregation_pb2.AppendResultsRequest],
        context: grpc.aio.ServicerContext[aggregation_pb2.AppendResultsRequest, aggregation_pb2.AppendResultsResponse],
    ) -> aggregation_pb2.AppendResultsResponse:
        """Store each message before the next is read, and answer when all are durable, with what they decide."""
        counts: AppendCounts | None = None
        touched: set[tuple[str, str]] = set()
        message_index = 0
        try:
            async for request in request_iterator:
                lease = lease_from_proto(request)
                results = await asyncio.to_thread(results_from_proto, request)
                wrong = await self._drawings.wrong_draws(results)
                rejected = frozenset(wrong)
                right = [each for number, each in enumerate(results) if number not in rejected]
                with item_spans("AppendResults/item", _traces(request)):
                    added = await self._ledger.append(right, lease)
                if counts is not None and counts.incarnation != added.incarnation:
                    # The messages before may be lost.
                    raise LedgerReplacedError
                counts = added if counts is None else counts + added
                if wrong:
                    raise WrongDrawError(results, wrong)
                touched.update((each.run, each.key.task) for each in results)
                message_index += 1
        except FleetError as error:
            counts = counts or AppendCounts()
            # First, since an error's details are cut at their end when they grow too large.
            error.metadata = {
                "appended_count": str(counts.appended),
                "duplicate_count": str(counts.duplicates),
                "message_index": str(message_index),
                **error.metadata,
            }
            raise
        counts = counts or AppendCounts()
        return aggregation_pb2.AppendResultsResponse(
            appended_count=counts.appended,
            duplicate_count=counts.duplicates,
            decisions=await self._drawings.decisions_of(touched),
            ledger_incarnation=counts.incarnation,
        )

    async def GetEstimates(
        self,
        request: aggregation_pb2.GetEstimatesRequest,
        context: grpc.aio.ServicerContext[aggregation_pb2.GetEstimatesRequest, aggregation_pb2.GetEstimatesResponse],
    ) -> aggregation_pb2.GetEstimatesResponse:
        """Estimate every metric from the results that are there now."""
        level = request.confidence_level if request.HasField("confidence_level") else DEFAULT_CONFIDENCE_LEVEL
        if not 0.5 < level < 1:
            raise InvalidLedgerRequestError("confidence_level", f"is {level}; it lies above 0.5 and below 1")
        qualities = qualities_from_proto(request)
        measured = measured_judges_from_proto(request)
        tally = RunTally(with_sets=request.with_set_measures)
        async with aclosing(self._ledger.observations(_checked_run(request.run), request.task or None)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(tally.add, piece)
        response = await asyncio.to_thread(_estimates, tally, level, qualities)
        if measured:
            found = await self._ledger.judges(request.run)
            for metric, judge in measured.items():
                tasks = [task.totals.task for task in tally.tasks if task.has_scored(metric)]
                check_quality(metric, judge, tasks, found)
        decisions = await self._drawings.of_run(request.run)
        add_task_intervals(response, decisions)
        withhold_set_intervals(response, decisions)
        return response

    async def ListResults(
        self,
        request: aggregation_pb2.ListResultsRequest,
        context: grpc.aio.ServicerContext[aggregation_pb2.ListResultsRequest, aggregation_pb2.ListResultsResponse],
    ) -> aggregation_pb2.ListResultsResponse:
        """List results in the order of their keys; results that come meanwhile neither repeat nor hide others."""
        run = _checked_run(request.run)
        size = checked_page_size(request.page_size, default=DEFAULT_PAGE_RESULTS, maximum=MAX_PAGE_RESULTS)
        scope = json.dumps(["ListResults", run, request.task, request.failed_only])
        after = _key_of(decode_page_token(request.page_token, scope=scope))
        wanted = ResultFilter(request.task or None, after, request.failed_only)
        # One more than the page holds tells whether another page follows.
        listed: _Listed
        if request.view == aggregation_pb2.RESULT_VIEW_KEYS:
            listed = self._ledger.keys(run, wanted, size + 1)
        else:
            listed = self._ledger.results(run, wanted, size + 1)
        page = _Page(run, size, self._page_bytes)
        async with aclosing(listed) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(page.fill, piece)
                if page.is_full:
                    break
        return aggregation_pb2.ListResultsResponse(
            results=page.results,
            next_page_token=encode_page_token(_cursor_of(page.results[-1]), scope=scope) if page.is_full else "",
        )

    async def PruneLedger(
        self,
        request: aggregation_pb2.PruneLedgerRequest,
        context: grpc.aio.ServicerContext[aggregation_pb2.PruneLedgerRequest, aggregation_pb2.PruneLedgerResponse],
    ) -> aggregation_pb2.PruneLedgerResponse:
        """Take out what is old, named, or referred to by nothing."""
        pruned = await self._ledger.prune(policy_from_proto(request), dry_run=request.dry_run)
        return pruned_to_proto(pruned)

    async def CreateDrawing(
        self,
        request_iterator: AsyncIterator[drawing_pb2.CreateDrawingRequest],
        context: grpc.aio.ServicerContext[drawing_pb2.CreateDrawingRequest, drawing_pb2.CreateDrawingResponse],
    ) -> drawing_pb2.CreateDrawingResponse:
        """Fix a task's order and questions."""
        return await self._drawings.create(request_iterator)

    async def DrawItems(
        self,
        request: drawing_pb2.DrawItemsRequest,
        context: grpc.aio.ServicerContext[drawing_pb2.DrawItemsRequest, drawing_pb2.DrawItemsResponse],
    ) -> drawing_pb2.DrawItemsResponse:
        """Return the next items to evaluate."""
        return await self._drawings.draw(request)

    async def GetDecisions(
        self,
        request: drawing_pb2.GetDecisionsRequest,
        context: grpc.aio.ServicerContext[drawing_pb2.GetDecisionsRequest, drawing_pb2.GetDecisionsResponse],
    ) -> drawing_pb2.GetDecisionsResponse:
        """Return what a run's results decide."""
        return await self._drawings.decisions(request)

    async def RankRuns(
        self,
        request: ranking_pb2.RankRunsRequest,
        context: grpc.aio.ServicerContext[ranking_pb2.RankRunsRequest, ranking_pb2.RankRunsResponse],
    ) -> ranking_pb2.RankRunsResponse:
        """Judge several runs on the items that they were asked in common."""
        return await self._rankings.rank(request)

    async def CompareRuns(
        self,
        request: comparison_pb2.CompareRunsRequest,
        context: grpc.aio.ServicerContext[comparison_pb2.CompareRunsRequest, comparison_pb2.CompareRunsResponse],
    ) -> comparison_pb2.CompareRunsResponse:
        """Compare two runs, item by item."""
        return await self._comparisons.compare_runs(request)

    async def AnalyzeItems(
        self,
        request: item_analysis_pb2.AnalyzeItemsRequest,
        context: grpc.aio.ServicerContext[
            item_analysis_pb2.AnalyzeItemsRequest, item_analysis_pb2.AnalyzeItemsResponse
        ],
    ) -> AsyncGenerator[item_analysis_pb2.AnalyzeItemsResponse]:
        """Analyse the items of a task over several runs."""
        async with aclosing(self._comparisons.analyze_items(request)) as messages:
            async for message in messages:
                yield message

    async def CheckRegressions(
        self,
        request: regressions_pb2.CheckRegressionsRequest,
        context: grpc.aio.ServicerContext[
            regressions_pb2.CheckRegressionsRequest, regressions_pb2.CheckRegressionsResponse
        ],
    ) -> regressions_pb2.CheckRegressionsResponse:
        """Look for tasks that became worse along runs."""
        return await self._comparisons.check_regressions(request)


def hosted(ledger: SqlLedger, *, max_message_bytes: int) -> HostedService:
    """Return what a server needs to serve this ledger."""
    # Half of what a message may hold: room for what the estimate of a page's size leaves out.
    comparisons = ComparisonHandlers(LedgerAnswers(ledger))
    servicer = AggregationServicer(ledger, page_bytes=max_message_bytes // 2, comparisons=comparisons)
    return HostedService(
        FULL_NAME,
        lambda server: aggregation_pb2_grpc.add_AggregationServiceServicer_to_server(servicer, server),
        readiness=ledger.is_ready,
    )


class _Page:
    """A page in the making: up to ``size`` results and about ``most_bytes`` bytes.

    Attributes:
        is_full: a result came that had no place any more.
    """

    def __init__(self, run: str, size: int, most_bytes: int) -> None:
        self.results: list[aggregation_pb2.Result] = []
        self.is_full = False
        self._run = run
        self._size = size
        self._bytes_left = most_bytes

    def fill(self, piece: Sequence[ListedKey] | Sequence[Result]) -> None:
        """Take what there is place for."""
        for each in piece:
            message = result_to_proto(each) if isinstance(each, Result) else listed_key_to_proto(self._run, each)
            self._bytes_left -= message.ByteSize()
            if self.results and (len(self.results) == self._size or self._bytes_left < 0):
                self.is_full = True
                return
            self.results.append(message)


def _estimates(
    tally: RunTally, confidence_level: float, qualities: Mapping[str, GuardQuality]
) -> aggregation_pb2.GetEstimatesResponse:
    tally.finish()
    estimates = (estimate for task in tally.tasks for estimate in task.estimates(confidence_level, qualities))
    totals = [task.totals for task in tally.tasks]
    return estimates_to_proto(estimates, totals, tally.set_measures(confidence_level))


def _checked_run(run: str) -> str:
    if not run.startswith("runs/") or run == "runs/":
        raise InvalidLedgerRequestError("run", f"is {run!r}; write runs/{{run}}")
    return run


def _cursor_of(result: aggregation_pb2.Result) -> str:
    return json.dumps([result.task, result.item, result.sample])


def _key_of(cursor: str | None) -> ResultKey | None:
    return None if cursor is None else ResultKey(*json.loads(cursor))


def _traces(request: aggregation_pb2.AppendResultsRequest) -> Iterator[tuple[str, str]]:
    """Yield where the message's items stand in their traces, and their ids, if they are traced."""
    pairs = zip(request.traceparents, request.results, strict=False)
    return ((told, f"{each.task}/{each.item}") for told, each in pairs)
