"""Runs beside each other: two of them, the items of many, a sequence of checkpoints."""

from collections.abc import Sequence

from evalfleet import comparison_decoding, ranking_messages
from evalfleet import comparison_messages as messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.comparison_messages import LONGEST_CALL_SECONDS
from evalfleet.comparison_results import ComparedMetric, ComparedRuns, ItemAnalysis, Regressions, WatchedMetric
from evalfleet.connections import Connection
from evalfleet.names import full_name
from evalfleet.ranking_results import RankedRuns


class Comparisons:
    """Comparisons of the aggregation service; runs may be given as ``runs/r1`` or ``r1``."""

    def __init__(self, aggregation: Connection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    def compare(
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
        """Compare two runs item by item.

        Args:
            base_run: the run that is compared with.
            variant_run: the run that is judged.
            metrics: what is compared; empty: every metric that both have, more being better.
            margin: how much worse the variant may be, as a difference of means; default: nothing is decided.
            confidence_level: of intervals and decisions; default: 0.95.
            cluster_column: column of the items' groups that says which items belong together.
            allow_unpaired: compare what cannot be paired as two samples, instead of refusing.

        Raises:
            FailedPreconditionError: with the reason ``RUNS_NOT_COMPARABLE``: items, prompts or judges are not the same.
        """
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
        answer = self._connection.call(self._stub.CompareRuns, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return comparison_decoding.compared_runs(base, variant, answer, has_margin=margin is not None)

    def items(
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
        """Analyse the items of a task from what several runs made of them.

        Args:
            task: name of the task.
            metric: a share from 0 to 1.
            lower_is_better: whether less of it is better.
            runs: newest first; empty: the newest of the ledger that have the task.
            run_limit: most of these; default: 50.
            duplicate_similarity: of two texts from which on they are near-duplicates; default: 0.8.
            flagged_only: only items that are saturated, dead, suspect or duplicates.
        """
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
        return comparison_decoding.item_analysis(task, metric, answers)

    def regressions(
        self,
        runs: Sequence[str],
        metrics: Sequence[WatchedMetric] = (),
        *,
        tolerance: float | None = None,
        false_alarm_rate: float | None = None,
    ) -> Regressions:
        """Look for tasks that became worse along checkpoints.

        Args:
            runs: one a checkpoint, in the order of training.
            metrics: what is watched; empty: every metric of the first run, more being better.
            tolerance: drops of up to this much are none; default: 0.01.
            false_alarm_rate: largest probability of any false alarm over all of them; default: 0.05.
        """
        names = [full_name("runs", each) for each in runs]
        request = messages.regressions_request(names, metrics, tolerance=tolerance, false_alarm_rate=false_alarm_rate)
        answer = self._connection.call(self._stub.CheckRegressions, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return comparison_decoding.regressions(names, answer)

    def rank(
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
        """Judge runs on the items that they were asked in common: which are the best, or as good as the first.

        Args:
            runs: 2 to 32, each with a drawing of the task whose order comes from the same seed alone.
            task: name of the task.
            top: how many of the best are wanted; default, where no margin is given: one.
            margin: instead: how much worse than the first run each other may be.
            tolerance: of ``top``: how much worse than others those may be that are named the best; default: not at all.
            confidence_level: 1 minus the probability of a wrong answer; default: 0.95.
            lower_is_better: whether less of the metric is better.

        Raises:
            ValueError: top and margin are both given, or a margin and a tolerance.
            FailedPreconditionError: with the reason ``RUNS_NOT_COMPARABLE``: their orders are not the same.
        """
        request = ranking_messages.rank_request(
            runs,
            task,
            top=top,
            margin=margin,
            tolerance=tolerance,
            confidence_level=confidence_level,
            lower_is_better=lower_is_better,
        )
        answer = self._connection.call(self._stub.RankRuns, request, timeout_seconds=LONGEST_CALL_SECONDS)
        return ranking_messages.ranked_runs(answer)
