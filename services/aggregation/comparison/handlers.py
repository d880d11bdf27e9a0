"""The part of the aggregation service that sets runs beside each other: check, compute, translate back."""

import asyncio
from collections.abc import AsyncGenerator

from evalfleet.aggregation.v1 import comparison_pb2, item_analysis_pb2, regressions_pb2

from services.aggregation.comparison.analysing import analyze_items
from services.aggregation.comparison.compare_messages import compared_to_proto, comparison_request
from services.aggregation.comparison.comparing import compare_runs
from services.aggregation.comparison.item_messages import analysis_request, analyzed_to_proto
from services.aggregation.comparison.reading import AnswerSource
from services.aggregation.comparison.regression_messages import (
    false_alarm_rate_of,
    regressions_to_proto,
    tolerance_of,
    watched_metrics,
    watched_runs,
)
from services.aggregation.comparison.watching import check_regressions


class ComparisonHandlers:
    """Answers requests from what the ledger has now. Nothing is kept between requests.

    Args:
        source: of the runs' answers.
    """

    def __init__(self, source: AnswerSource) -> None:
        self._source = source

    async def compare_runs(self, request: comparison_pb2.CompareRunsRequest) -> comparison_pb2.CompareRunsResponse:
        """Compare two runs."""
        compared = await compare_runs(self._source, comparison_request(request))
        return await asyncio.to_thread(compared_to_proto, compared)

    async def analyze_items(
        self, request: item_analysis_pb2.AnalyzeItemsRequest
    ) -> AsyncGenerator[item_analysis_pb2.AnalyzeItemsResponse]:
        """Analyse the items of a task; the summary comes first."""
        analyzed = await analyze_items(self._source, analysis_request(request))
        messages = await asyncio.to_thread(lambda: list(analyzed_to_proto(analyzed, flagged_only=request.flagged_only)))
        for message in messages:
            yield message

    async def check_regressions(
        self, request: regressions_pb2.CheckRegressionsRequest
    ) -> regressions_pb2.CheckRegressionsResponse:
        """Look for regressions along runs."""
        runs = watched_runs(request)
        found = await check_regressions(
            self._source,
            runs,
            watched_metrics(request),
            tolerance=tolerance_of(request),
            false_alarm_rate=false_alarm_rate_of(request),
        )
        return await asyncio.to_thread(regressions_to_proto, found, runs)
