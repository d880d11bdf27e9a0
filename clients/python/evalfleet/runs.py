"""The runs of a fleet: start them, follow them, read what they found."""

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

from evalfleet import decoding, goal_messages
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.errors import CancelledCallError, UnavailableError
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.goal_messages import add_goal
from evalfleet.goals import Budget, CallerBudget, Gate, ModelChange, RunPlan
from evalfleet.item_decoding import item_result
from evalfleet.item_results import ItemResult
from evalfleet.names import full_name
from evalfleet.results import FailedItem, GuardQuality, JudgeReference, Run, RunSnapshot

PATIENCE_SECONDS = 60.0
_RECONNECT_SECONDS = 0.5


class Runs:
    """Runs of the evaluation service and their results; names may be given as ``runs/r1`` or ``r1``."""

    def __init__(self, evaluation: Connection, aggregation: Callable[[], Connection]) -> None:
        self._evaluation = evaluation
        self._stub = evaluation_pb2_grpc.EvaluationServiceStub(evaluation.channel)
        # A function, because most calls need the evaluation service alone.
        self._aggregation = aggregation

    def start(
        self,
        *,
        model: str,
        suite: str,
        tasks: Sequence[str] = (),
        item_limit: int | None = None,
        seed: int | None = None,
        concurrency: int | None = None,
        run_id: str | None = None,
        priority: int = 0,
        gates: Iterable[Gate | str] = (),
        precision: float | None = None,
        confidence: float | None = None,
        budget: Budget | str | None = None,
        tier: str = "",
        use_history: bool | None = None,
        stop_at_failure: bool | None = None,
        previous_run: str = "",
        escalate: bool = False,
        change: ModelChange | str | None = None,
        sample_count: int | None = None,
        temperature: float | None = None,
    ) -> Run:
        """Start a run and return at once; it goes on without this client.

        Args:
            model: name of a registered model.
            suite: name of a suite.
            tasks: only these tasks of the suite; empty: all.
            item_limit: most items a task, the first of the seeded order.
            seed: seed of item order and sampling; default: the suite's, so that all models meet the same items.
            concurrency: items in flight at once; default: the service's.
            run_id: id of the run; default: chosen by the service.
            priority: from -100 to 100; runs of higher priority start first, among equals callers take turns.
            gates: bounds such as ``"gsm8k>=0.55"``; a task stops as soon as its gates are decided.
            precision: a task without a gate stops when its interval is at most this to either side.
            confidence: 1 minus the probability that any of the run's decisions is wrong; default: 0.95.
            budget: what it may spend, such as ``"2usd,10min"``; used up, the run ends with what it has found.
            tier: ``smoke``, ``standard`` or ``deep``, as the suite defines it; ``auto``: by what is new in the model.
            use_history: whether earlier results choose which items are drawn first; default: they do.
            stop_at_failure: whether the first gate that fails ends the run; default: in the tier ``smoke``.
            previous_run: the run of the checkpoint before this one, whose results predict best.
            escalate: go on with the next tier, in a run of its own, unless a gate fails; needs a tier. The budget is
                that of all tiers together.
            change: for the tier ``auto``: what is new in the model, if that is known better than its digests tell.
            sample_count: samples of each generated answer; default: the tier's, or what each task says.
            temperature: of generated answers, above 0 where there are several samples; default: likewise.

        Raises:
            ValueError: a gate, the budget or the change cannot be read.
        """
        request = evaluation_pb2.CreateRunRequest(
            suite=full_name("suites", suite),
            model=full_name("models", model),
            run_id=run_id,
            seed=seed,
            item_limit=item_limit,
            tasks=tasks,
            concurrency=concurrency,
            request_id=str(uuid.uuid4()),
            priority=priority,
            stop_at_failure=stop_at_failure,
            escalate=escalate,
        )
        add_goal(
            request,
            gates=gates,
            precision=precision,
            confidence=confidence,
            budget=budget,
            tier=tier,
            use_history=use_history,
            previous_run=previous_run,
            change=change,
            sample_count=sample_count,
            temperature=temperature,
        )
        return decoding.run(self._evaluation.call(self._stub.CreateRun, request).run)

    def plan(
        self,
        *,
        suite: str,
        model: str = "",
        tasks: Sequence[str] = (),
        item_limit: int | None = None,
        gates: Iterable[Gate | str] = (),
        precision: float | None = None,
        confidence: float | None = None,
        budget: Budget | str | None = None,
        tier: str = "",
        use_history: bool | None = None,
    ) -> RunPlan:
        """Say what a run would probably cost, before anything is spent; nothing is started.

        The arguments are those of ``start``. Without a model, any earlier run says what items cost.

        Raises:
            ValueError: a gate or the budget cannot be read.
        """
        wanted = full_name("models", model) if model else ""
        run = evaluation_pb2.CreateRunRequest(
            suite=full_name("suites", suite), model=wanted, tasks=tasks, item_limit=item_limit
        )
        add_goal(
            run,
            gates=gates,
            precision=precision,
            confidence=confidence,
            budget=budget,
            tier=tier,
            use_history=use_history,
        )
        request = evaluation_pb2.EstimateRunRequest(run=run)
        return goal_messages.plan(self._evaluation.call(self._stub.EstimateRun, request))

    def caller_budget(self, caller: str = "") -> CallerBudget:
        """Read what a caller, or else the one that this fleet was connected as, may spend today and has spent."""
        request = evaluation_pb2.GetCallerBudgetRequest(caller=caller)
        return goal_messages.caller_budget(self._evaluation.call(self._stub.GetCallerBudget, request).budget)

    def list(self, *, model: str | None = None, limit: int = 50) -> tuple[Run, ...]:
        """List up to ``limit`` runs, newest first; only those of ``model`` if it is given."""
        wanted = full_name("models", model) if model else ""
        pages = self._evaluation.pages(
            self._stub.ListRuns,
            lambda token: evaluation_pb2.ListRunsRequest(
                page_size=min(limit, LARGEST_PAGE), page_token=token, model=wanted
            ),
        )
        return tuple(decoding.run(each) for each in islice((each for page in pages for each in page.runs), limit))

    def get(self, name: str) -> Run:
        """Read one run."""
        request = evaluation_pb2.GetRunRequest(name=full_name("runs", name))
        return decoding.run(self._evaluation.call(self._stub.GetRun, request).run)

    def cancel(self, name: str) -> Run:
        """Stop a run; what is done stays. Cancelling a finished run changes nothing."""
        request = evaluation_pb2.CancelRunRequest(name=full_name("runs", name))
        return decoding.run(self._evaluation.call(self._stub.CancelRun, request).run)

    def watch(
        self, name: str, resume_token: str = "", *, patience_seconds: float = PATIENCE_SECONDS
    ) -> Generator[RunSnapshot]:
        """Yield the run as it stands, at once and whenever it changes, until it has ended.

        A service that is restarted meanwhile is waited for; ``events`` of the snapshots leave nothing out and tell
        nothing twice, however often that happens.

        Args:
            name: the run.
            resume_token: of a snapshot of an earlier watch, to be told only what happened since.
            patience_seconds: longest time that the service may be unreachable.

        Raises:
            UnavailableError: it was unreachable for that long; the run itself may go on.
        """
        request = evaluation_pb2.WatchRunRequest(name=full_name("runs", name), resume_token=resume_token)
        silent_since: float | None = None
        while True:
            try:
                for answer in self._evaluation.stream(self._stub.WatchRun, request):
                    silent_since = None
                    request.resume_token = answer.resume_token
                    snapshot = _snapshot(answer)
                    yield snapshot
                    if snapshot.run.state.is_final:
                        return
            except (UnavailableError, CancelledCallError):
                if silent_since is not None and time.monotonic() - silent_since > patience_seconds:
                    raise
            # A stream that ends before the run does belongs to a service that is draining.
            silent_since = silent_since or time.monotonic()
            time.sleep(_RECONNECT_SECONDS)

    def snapshot(
        self, name: str, *, guard_qualities: Sequence[GuardQuality] = (), with_set_measures: bool = False
    ) -> RunSnapshot:
        """Read one run with its estimates and totals.

        Args:
            name: the run.
            guard_qualities: how good the guards behind metrics are; their rates are then also given corrected for it.
            with_set_measures: also compute figures of whole sets, such as calibration errors, which takes longer.

        Raises:
            FailedPreconditionError: QUALITY_OF_ANOTHER_JUDGE: another one judged the run than was measured.
        """
        run = self.get(name)
        aggregation = self._aggregation()
        stub = aggregation_pb2_grpc.AggregationServiceStub(aggregation.channel)
        request = aggregation_pb2.GetEstimatesRequest(
            run=run.name,
            guard_qualities=[
                aggregation_pb2.GuardQuality(
                    metric=each.metric,
                    unsafe_count=each.unsafe_count,
                    unsafe_found_count=each.unsafe_found,
                    safe_count=each.safe_count,
                    safe_cleared_count=each.safe_cleared,
                    judge=_reference(each.judge),
                )
                for each in guard_qualities
            ],
            with_set_measures=with_set_measures,
        )
        answer = aggregation.call(stub.GetEstimates, request)
        return RunSnapshot(
            run=run,
            estimates=tuple(decoding.estimate(each) for each in answer.estimates),
            totals=tuple(decoding.totals(each) for each in answer.totals),
            set_measures=tuple(decoding.set_measure(each) for each in answer.set_measures),
        )

    def results(self, name: str, *, task: str = "", failed_only: bool = False) -> Iterator[ItemResult]:
        """Yield what became of every sample of every item, ordered by task, item and sample, a page at a time.

        Args:
            name: the run.
            task: only this task.
            failed_only: only items that failed, and those of which a metric did.
        """
        aggregation = self._aggregation()
        stub = aggregation_pb2_grpc.AggregationServiceStub(aggregation.channel)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: aggregation_pb2.ListResultsRequest(
                run=full_name("runs", name),
                task=task,
                failed_only=failed_only,
                page_size=LARGEST_PAGE,
                page_token=token,
            ),
        )
        return (item_result(each) for page in pages for each in page.results)

    def failed_items(self, name: str, *, limit: int = 1000) -> tuple[FailedItem, ...]:
        """List up to ``limit`` failures of a run: items that could not be judged, as a whole or in some metrics.

        They are ordered by task and item.
        """
        aggregation = self._aggregation()
        stub = aggregation_pb2_grpc.AggregationServiceStub(aggregation.channel)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: aggregation_pb2.ListResultsRequest(
                run=full_name("runs", name), failed_only=True, page_size=min(limit, LARGEST_PAGE), page_token=token
            ),
        )
        results = (each for page in pages for each in page.results)
        return tuple(islice((failed for each in results for failed in decoding.failed_items(each)), limit))


def _reference(judge: JudgeReference | None) -> common_pb2.JudgeReference | None:
    if judge is None:
        return None
    return common_pb2.JudgeReference(name=judge.name, version=judge.version, digest=judge.digest)


def _snapshot(answer: evaluation_pb2.WatchRunResponse) -> RunSnapshot:
    return RunSnapshot(
        run=decoding.run(answer.run),
        estimates=tuple(decoding.estimate(each) for each in answer.estimates),
        totals=tuple(decoding.totals(each) for each in answer.totals),
        events=tuple(decoding.run_event(each) for each in answer.events),
        resume_token=answer.resume_token,
    )
