"""A fake of the aggregation service: gives the estimates, results and comparisons that a test puts in."""

from collections.abc import Iterator

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

from tests.fakes.demo_run import demo_estimates, demo_totals
from tests.fakes.refusing import fail, not_offered


class FakeAggregation(aggregation_pb2_grpc.AggregationServiceServicer):
    """Answers with the estimates and results that a test puts in."""

    def __init__(self) -> None:
        self.estimate_requests: list[aggregation_pb2.GetEstimatesRequest] = []
        self.estimates_of: dict[str, aggregation_pb2.GetEstimatesResponse] = {}
        self.set_measures: list[aggregation_pb2.SetMeasure] = []
        self.estimates = demo_estimates()
        self.totals = demo_totals()
        self.compare_requests: list[comparison_pb2.CompareRunsRequest] = []
        self.comparisons: list[comparison_pb2.CompareRunsResponse] = []
        self.comparison_refusal = ""
        self.prune_requests: list[aggregation_pb2.PruneLedgerRequest] = []
        self.pruned = aggregation_pb2.PruneLedgerResponse()
        self.item_requests: list[item_analysis_pb2.AnalyzeItemsRequest] = []
        self.analyzed: list[item_analysis_pb2.AnalyzeItemsResponse] = []
        self.regression_requests: list[regressions_pb2.CheckRegressionsRequest] = []
        self.regressions = regressions_pb2.CheckRegressionsResponse()
        self.largest_page = 1000
        self.results: list[aggregation_pb2.Result] = []
        self.failed = [
            aggregation_pb2.Result(
                run="runs/r1",
                task="arithmetic",
                item="a-7",
                failure=aggregation_pb2.Failure(reason="PROMPT_TOO_LONG", message="600 tokens, the context holds 512"),
            )
        ]

    def AppendResults(
        self, request_iterator: Iterator[aggregation_pb2.AppendResultsRequest], context: grpc.ServicerContext
    ) -> aggregation_pb2.AppendResultsResponse:
        not_offered(context)

    def GetEstimates(
        self, request: aggregation_pb2.GetEstimatesRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.GetEstimatesResponse:
        self.estimate_requests.append(request)
        if request.run in self.estimates_of:
            return self.estimates_of[request.run]
        return aggregation_pb2.GetEstimatesResponse(
            estimates=self.estimates,
            totals=self.totals,
            set_measures=self.set_measures if request.with_set_measures else [],
        )

    def ListResults(
        self, request: aggregation_pb2.ListResultsRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.ListResultsResponse:
        if request.failed_only and not self.results:
            return aggregation_pb2.ListResultsResponse(results=self.failed)
        wanted = [
            each
            for each in self.results
            if request.run in ("", each.run)
            and request.task in ("", each.task)
            and (not request.failed_only or each.HasField("failure") or each.metric_failures)
        ]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, self.largest_page)
        following = str(end) if end < len(wanted) else ""
        return aggregation_pb2.ListResultsResponse(results=wanted[start:end], next_page_token=following)

    def PruneLedger(
        self, request: aggregation_pb2.PruneLedgerRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.PruneLedgerResponse:
        self.prune_requests.append(request)
        return self.pruned

    def CompareRuns(
        self, request: comparison_pb2.CompareRunsRequest, context: grpc.ServicerContext
    ) -> comparison_pb2.CompareRunsResponse:
        """Answer with one of ``comparisons`` after another; the last one stays."""
        self.compare_requests.append(request)
        if self.comparison_refusal:
            message = "the runs cannot be paired item by item"
            fail(context, grpc.StatusCode.FAILED_PRECONDITION, message, reason=self.comparison_refusal)
        return self.comparisons[min(len(self.compare_requests), len(self.comparisons)) - 1]

    def AnalyzeItems(
        self, request: item_analysis_pb2.AnalyzeItemsRequest, context: grpc.ServicerContext
    ) -> Iterator[item_analysis_pb2.AnalyzeItemsResponse]:
        self.item_requests.append(request)
        yield from self.analyzed

    def CheckRegressions(
        self, request: regressions_pb2.CheckRegressionsRequest, context: grpc.ServicerContext
    ) -> regressions_pb2.CheckRegressionsResponse:
        self.regression_requests.append(request)
        return self.regressions

    def RankRuns(
        self, request: ranking_pb2.RankRunsRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.RankRunsResponse:
        not_offered(context)

    def CreateDrawing(
        self, request_iterator: Iterator[drawing_pb2.CreateDrawingRequest], context: grpc.ServicerContext
    ) -> drawing_pb2.CreateDrawingResponse:
        not_offered(context)

    def DrawItems(
        self, request: drawing_pb2.DrawItemsRequest, context: grpc.ServicerContext
    ) -> drawing_pb2.DrawItemsResponse:
        not_offered(context)

    def GetDecisions(
        self, request: drawing_pb2.GetDecisionsRequest, context: grpc.ServicerContext
    ) -> drawing_pb2.GetDecisionsResponse:
        not_offered(context)
