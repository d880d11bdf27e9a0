"""The runs of a fleet: start them, follow them, read what they found."""

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from itertools import islice

from evalfleet import decoding
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.connections import LARGEST_PAGE, Connection
from evalfleet.errors import CancelledCallError, UnavailableError
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.names import full_name
from evalfleet.results import FailedItem, GuardQuality, Run, RunSnapshot

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
        )
        return decoding.run(self._evaluation.call(self._stub.CreateRun, request).run)

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

    def watch(self, name: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Generator[RunSnapshot]:
        """Yield the run as it stands, at once and whenever it changes, until it has ended.

        A service that is restarted meanwhile is waited for.

        Args:
            name: the run.
            patience_seconds: longest time that the service may be unreachable.

        Raises:
            UnavailableError: it was unreachable for that long; the run itself may go on.
        """
        request = evaluation_pb2.WatchRunRequest(name=full_name("runs", name))
        silent_since: float | None = None
        while True:
            try:
                for answer in self._evaluation.stream(self._stub.WatchRun, request):
                    silent_since = None
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

    def snapshot(self, name: str, *, guard_qualities: Sequence[GuardQuality] = ()) -> RunSnapshot:
        """Read one run with its estimates and totals.

        Args:
            name: the run.
            guard_qualities: how good the guards behind metrics are; their rates are then also given corrected for it.
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
                )
                for each in guard_qualities
            ],
        )
        answer = aggregation.call(stub.GetEstimates, request)
        return RunSnapshot(
            run=run,
            estimates=tuple(decoding.estimate(each) for each in answer.estimates),
            totals=tuple(decoding.totals(each) for each in answer.totals),
        )

    def failed_items(self, name: str, *, limit: int = 1000) -> tuple[FailedItem, ...]:
        """List up to ``limit`` items of a run that could not be judged, ordered by task and item."""
        aggregation = self._aggregation()
        stub = aggregation_pb2_grpc.AggregationServiceStub(aggregation.channel)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: aggregation_pb2.ListResultsRequest(
                run=full_name("runs", name), failed_only=True, page_size=min(limit, LARGEST_PAGE), page_token=token
            ),
        )
        results = islice((each for page in pages for each in page.results), limit)
        return tuple(decoding.failed_item(each) for each in results)


def _snapshot(answer: evaluation_pb2.WatchRunResponse) -> RunSnapshot:
    return RunSnapshot(
        run=decoding.run(answer.run),
        estimates=tuple(decoding.estimate(each) for each in answer.estimates),
        totals=tuple(decoding.totals(each) for each in answer.totals),
    )
