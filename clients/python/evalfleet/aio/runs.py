"""The runs of a fleet, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Unpack

from evalfleet import decoding, goal_messages
from evalfleet import run_messages as messages
from evalfleet.aggregation.v1 import aggregation_pb2_grpc
from evalfleet.aio.connections import AsyncConnection
from evalfleet.aio.watching import reopened
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.goals import CallerBudget, RunPlan
from evalfleet.item_decoding import item_result
from evalfleet.item_results import ItemResult
from evalfleet.names import full_name
from evalfleet.results import FailedItem, GuardQuality, Run, RunSnapshot
from evalfleet.run_messages import PATIENCE_SECONDS, PlanOptions, RunOptions


class AsyncRuns:
    """Runs of the evaluation service and their results: ``evalfleet.runs.Runs``, to be awaited."""

    def __init__(self, evaluation: AsyncConnection, aggregation: Callable[[], AsyncConnection]) -> None:
        self._evaluation = evaluation
        # A function, because most calls need the evaluation service alone.
        self._aggregation = aggregation

    @property
    def _stub(self) -> evaluation_pb2_grpc.EvaluationServiceAsyncStub:
        return self._evaluation.stub(evaluation_pb2_grpc.EvaluationServiceStub)

    async def start(self, *, model: str, suite: str, **options: Unpack[RunOptions]) -> Run:
        """Start a run and return at once; the arguments are those of ``Runs.start``.

        Raises:
            ValueError: a gate, the budget or the change cannot be read.
        """
        request = messages.create_request(model=model, suite=suite, **options)
        return decoding.run((await self._evaluation.call(self._stub.CreateRun, request)).run)

    async def plan(self, *, suite: str, model: str = "", **options: Unpack[PlanOptions]) -> RunPlan:
        """Say what a run would probably cost, before anything is spent; the arguments are those of ``Runs.plan``.

        Raises:
            ValueError: a gate or the budget cannot be read.
        """
        request = messages.plan_request(suite=suite, model=model, **options)
        return goal_messages.plan(await self._evaluation.call(self._stub.EstimateRun, request))

    async def caller_budget(self, caller: str = "") -> CallerBudget:
        """Read what a caller, or else the one that this fleet was connected as, may spend today and has spent."""
        request = evaluation_pb2.GetCallerBudgetRequest(caller=caller)
        return goal_messages.caller_budget((await self._evaluation.call(self._stub.GetCallerBudget, request)).budget)

    async def list(self, *, model: str | None = None, limit: int = 50) -> tuple[Run, ...]:
        """List up to ``limit`` runs, newest first; only those of ``model`` if it is given."""
        pages = self._evaluation.pages(
            self._stub.ListRuns, lambda token: messages.runs_request(token, model=model, limit=limit)
        )
        found: list[Run] = []
        async with aclosing(pages):
            async for page in pages:
                found += [decoding.run(each) for each in page.runs]
                if len(found) >= limit:
                    break
        return tuple(found[:limit])

    async def get(self, name: str) -> Run:
        """Read one run."""
        request = evaluation_pb2.GetRunRequest(name=full_name("runs", name))
        return decoding.run((await self._evaluation.call(self._stub.GetRun, request, may_be_hedged=True)).run)

    async def cancel(self, name: str) -> Run:
        """Stop a run; what is done stays. Cancelling a finished run changes nothing."""
        request = evaluation_pb2.CancelRunRequest(name=full_name("runs", name))
        return decoding.run((await self._evaluation.call(self._stub.CancelRun, request)).run)

    async def watch(
        self, name: str, resume_token: str = "", *, patience_seconds: float = PATIENCE_SECONDS
    ) -> AsyncGenerator[RunSnapshot, None]:
        """Yield the run as it stands, at once and whenever it changes, until it has ended; see ``Runs.watch``.

        Raises:
            UnavailableError: the service was unreachable for ``patience_seconds``; the run itself may go on.
        """
        request = evaluation_pb2.WatchRunRequest(name=full_name("runs", name), resume_token=resume_token)
        answers = reopened(
            lambda: self._evaluation.stream(self._stub.WatchRun, request), patience_seconds=patience_seconds
        )
        async with aclosing(answers):
            async for answer in answers:
                request.resume_token = answer.resume_token
                snapshot = messages.watched(answer)
                yield snapshot
                if snapshot.run.state.is_final:
                    return

    async def snapshot(
        self, name: str, *, guard_qualities: Sequence[GuardQuality] = (), with_set_measures: bool = False
    ) -> RunSnapshot:
        """Read one run with its estimates and totals; arguments and errors are those of ``Runs.snapshot``."""
        run = await self.get(name)
        aggregation = self._aggregation()
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        request = messages.estimates_request(run.name, guard_qualities, with_set_measures=with_set_measures)
        return messages.estimated(run, await aggregation.call(stub.GetEstimates, request, may_be_hedged=True))

    async def results(
        self, name: str, *, task: str = "", failed_only: bool = False
    ) -> AsyncGenerator[ItemResult, None]:
        """Yield what became of every sample of every item, a page at a time; see ``Runs.results``."""
        aggregation = self._aggregation()
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: messages.results_request(token, run=name, task=task, failed_only=failed_only),
        )
        async with aclosing(pages):
            async for page in pages:
                for each in page.results:
                    yield item_result(each)

    async def failed_items(self, name: str, *, limit: int = 1000) -> tuple[FailedItem, ...]:
        """List up to ``limit`` failures of a run, ordered by task and item; see ``Runs.failed_items``."""
        aggregation = self._aggregation()
        stub = aggregation.stub(aggregation_pb2_grpc.AggregationServiceStub)
        pages = aggregation.pages(
            stub.ListResults,
            lambda token: messages.results_request(token, run=name, failed_only=True, limit=limit),
        )
        found: list[FailedItem] = []
        async with aclosing(pages):
            async for page in pages:
                found += [failed for each in page.results for failed in decoding.failed_items(each)]
                if len(found) >= limit:
                    break
        return tuple(found[:limit])
