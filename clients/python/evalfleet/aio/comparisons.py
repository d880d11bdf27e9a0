"""Runs beside each other, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import Sequence

from evalfleet import comparison_decoding, ranking_messages
from evalfleet import comparison_messages as messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.aio.connections import AsyncConnection
from evalfleet.comparison_messages import LONGEST_CALL_SECONDS
from evalfleet.comparison_results import ComparedMetric, ComparedRuns, ItemAnalysis, Regressions, WatchedMetric
from evalfleet.names import full_name
from evalfleet.ranking_results import RankedRuns


class AsyncComparisons:
    """Comparisons of the aggregation service: ``evalfleet.comparisons.Comparisons``, to be awaited."""

    def __init__(self, aggregation: AsyncConnection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceAsyncStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    async def compare(
        self,
        base_run: str,
        variant_run: str,
        metrics: Sequence[ComparedMetric] = (),
        *,
        margin: float | None = None,
        confidence_level: float | None = None,
        cluster_column: str = "",
        allow_unpaired: bool = False,
    ) -> ComparedRuns:
        """Compare two runs item by item; arguments and errors are those of ``Comparisons.compare``."""
        base, variant = full_name("runs", base_run), full_name("runs", variant_run)
        request = messages.compare_request(
            base,
            variant,
            metrics,
            margin=margin,
            confidence_level=confidence_level,
            cluster_column=cluster_column,
            allow_unpaired=allow_unpaired,
        )
        answer = await self._connection.call(self._stub.CompareRuns, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return comparison_decoding.compared_runs(base, variant, answer, has_margin=margin is not None)

    async def items(
        self,
        task: str,
        metric: str,
        *,
        lower_is_better: bool = False,
        runs: Sequence[str] = (),
        run_limit: int = 0,
        duplicate_similarity: float | None = None,
        flagged_only: bool = False,
    ) -> ItemAnalysis:
        """Analyse the items of a task from what several runs made of them; see ``Comparisons.items``."""
        request = messages.items_request(
            task,
            metric,
            lower_is_better=lower_is_better,
            runs=runs,
            run_limit=run_limit,
            duplicate_similarity=duplicate_similarity,
            flagged_only=flagged_only,
        )
        answers = self._connection.stream(self._stub.AnalyzeItems, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return comparison_decoding.item_analysis(task, metric, [each async for each in answers])

    async def regressions(
        self,
        runs: Sequence[str],
        metrics: Sequence[WatchedMetric] = (),
        *,
        tolerance: float | None = None,
        false_alarm_rate: float | None = None,
    ) -> Regressions:
        """Look for tasks that became worse along checkpoints; see ``Comparisons.regressions``."""
        names = [full_name("runs", each) for each in runs]
        request = messages.regressions_request(names, metrics, tolerance=tolerance, false_alarm_rate=false_alarm_rate)
        answer = await self._connection.call(self._stub.CheckRegressions, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return comparison_decoding.regressions(names, answer)

    async def rank(
        self,
        runs: Sequence[str],
        task: str,
        *,
        top: int | None = None,
        margin: float | None = None,
        tolerance: float | None = None,
        confidence_level: float | None = None,
        lower_is_better: bool = False,
    ) -> RankedRuns:
        """Judge runs on the items that they were asked in common; see ``Comparisons.rank``."""
        request = ranking_messages.rank_request(
            runs,
            task,
            top=top,
            margin=margin,
            tolerance=tolerance,
            confidence_level=confidence_level,
            lower_is_better=lower_is_better,
        )
        answer = await self._connection.call(self._stub.RankRuns, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return ranking_messages.ranked_runs(answer)
