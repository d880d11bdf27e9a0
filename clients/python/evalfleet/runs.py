"""The runs of a fleet: start them, follow them, read what they found."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Unpack

from evalfleet import decoding, goal_messages
from evalfleet import run_messages as messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.connections import Connection
from evalfleet.errors import CancelledCallError, UnavailableError
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.goals import CallerBudget, RunPlan
from evalfleet.item_decoding import item_result
from evalfleet.item_results import ItemResult
from evalfleet.names import full_name
from evalfleet.results import FailedItem, GuardQuality, Run, RunSnapshot
from evalfleet.run_messages import PATIENCE_SECONDS, PlanOptions, RunOptions

_RECONNECT_SECONDS = 0.5


class Runs:
    """Runs of the evaluation service and their results; names may be given as ``runs/r1`` or ``r1``."""

    def __init__(self, evaluation: Connection, aggregation: Callable[[], Connection]) -> None:
        self._evaluation = evaluation
        # A function, because most calls need the evaluation service alone.
        self._aggregation = aggregation

    @property
    def _stub(self) -> evaluation_pb2_grpc.EvaluationServiceStub:
        return self._evaluation.stub(evaluation_pb2_grpc.EvaluationServiceStub)

    def start(self, *, model: str, suite: str, **options: Unpack[RunOptions]) -> Run:
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
            request_id: a UUID: the same one again returns the run that it made; default: a new one.

        Raises:
            ValueError: a gate, the budget or the change cannot be read.
        """
        request = messages.create_request(model=model, suite=suite, **options)
        return decoding.run(self._evaluation.call(self._stub.CreateRun, request).run)

    def plan(self, *, suite: str, model: str = "", **options: Unpack[PlanOptions]) -> RunPlan:
        """Say what a run would probably cost, before anything is spent; nothing is started.

        The arguments are those of ``start``. Without a model, any earlier run says what items cost.

        Raises:
            ValueError: a gate or the budget cannot be read.
        """
        request = messages.plan_request(suite=suite, model=model, **options)
        return goal_messages.plan(self._evaluation.call(self._stub.EstimateRun, request))

    def caller_budget(self, caller: str = "") -> CallerBudget:
        """Read what a caller, or else the one that this fleet was connected as, may spend today and has spent."""
        request = evaluation_pb2.GetCallerBudgetRequest(caller=caller)
        return goal_messages.caller_budget(self._evaluation.call(self._stub.GetCallerBudget, request).budget)

    def list(self, *, model: str | None = None, limit: int = 50) -> tuple[Run, ...]:
        """List up to ``limit`` runs, newest first; only those of ``model`` if it is given."""
        pages = self._evaluation.pages(
            self._stub.ListRuns, lambda token: messages.runs_request(token, model=model, limit=limit)
        )
        return tuple(decoding.run(each) for each in islice((each for page in pages for each in page.runs), limit))

    def get(self, name: str) -> Run:
        """Read one run."""
        request = evaluation_pb2.GetRunRequest(name=full_name("runs", name))
        return decoding.run(self._evaluation.call(self._stub.GetRun, request, may_be_hedged=True).run)

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
                    snapshot = messages.watched(answer)
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
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        request = messages.estimates_request(run.name, guard_qualities, with_set_measures=with_set_measures)
        return messages.estimated(run, aggregation.call(stub.GetEstimates, request, may_be_hedged=True))

    def results(self, name: str, *, task: str = "", failed_only: bool = False) -> Iterator[ItemResult]:
        """Yield what became of every sample of every item, ordered by task, item and sample, a page at a time.

        Args:
            name: the run.
            task: only this task.
            failed_only: only items that failed, and those of which a metric did.
        """
        aggregation = self._aggregation()
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: messages.results_request(token, run=name, task=task, failed_only=failed_only),
        )
        return (item_result(each) for page in pages for each in page.results)

    def failed_items(self, name: str, *, limit: int = 1000) -> tuple[FailedItem, ...]:
        """List up to ``limit`` failures of a run: items that could not be judged, as a whole or in some metrics.

        They are ordered by task and item.
        """
        aggregation = self._aggregation()
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: messages.results_request(token, run=name, failed_only=True, limit=limit),
        )
        results = (each for page in pages for each in page.results)
        return tuple(islice((failed for each in results for failed in decoding.failed_items(each)), limit))
