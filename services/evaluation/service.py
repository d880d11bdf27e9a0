"""The EvaluationService: checks requests, asks the run manager and the catalog, translates back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import grpc
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc

from services.evaluation.catalog import Catalog
from services.evaluation.checks import checked_caller, resource_id, run_request
from services.evaluation.errors import SpecificationError
from services.evaluation.messages import (
    caller_budget_message,
    event_message,
    plan_message,
    run_message,
    suite_message,
)
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.events import Watcher
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.planner import RunPlanner
from services.evaluation.runs.record import Run
from services.evaluation.runs.remote import RemoteLedger
from services.evaluation.runs.retry import wait_out
from services.evaluation.scaling.refusals import Refusals
from services.runtime.callers import current_caller
from services.runtime.errors import FleetError
from services.runtime.pagination import checked_page_size, decode_page_token, encode_page_token, paginate

_ESTIMATES_EVERY_SECONDS = 1.0
_PAUSE_OVER_REFRESH = 20.0
"""Estimates read all results, so that of a large run they are refreshed more rarely, for a twentieth of the time."""
_FINAL_ESTIMATES_PATIENCE_SECONDS = 60.0


class EvaluationServicer(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Serves runs and suites."""

    def __init__(
        self,
        manager: RunManager,
        planner: RunPlanner,
        catalog: Catalog,
        ledger: RemoteLedger,
        allowances: Allowances,
        refusals: Refusals,
    ) -> None:
        self._manager = manager
        self._refusals = refusals
        self._allowances = allowances
        self._planner = planner
        self._catalog = catalog
        self._ledger = ledger

    async def CreateRun(
        self,
        request: evaluation_pb2.CreateRunRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.CreateRunRequest, evaluation_pb2.CreateRunResponse],
    ) -> evaluation_pb2.CreateRunResponse:
        """Start a run and return at once."""
        wished = run_request(request)
        with self._refusals.noting():
            run = await self._manager.create(wished)
        return evaluation_pb2.CreateRunResponse(run=run_message(run))

    async def GetRun(
        self,
        request: evaluation_pb2.GetRunRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.GetRunRequest, evaluation_pb2.GetRunResponse],
    ) -> evaluation_pb2.GetRunResponse:
        """Read one run."""
        run = await self._manager.get(resource_id(request.name, "runs"))
        return evaluation_pb2.GetRunResponse(run=run_message(run))

    async def ListRuns(
        self,
        request: evaluation_pb2.ListRunsRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.ListRunsRequest, evaluation_pb2.ListRunsResponse],
    ) -> evaluation_pb2.ListRunsResponse:
        """List runs, newest first."""
        size = checked_page_size(request.page_size)
        scope = f"ListRuns\0{request.model}"
        cursor = decode_page_token(request.page_token, scope=scope)
        after = None
        if cursor is not None:
            time, _, run_id = cursor.partition(" ")
            after = (float(time), run_id)
        runs = await self._manager.page(size=size + 1, model=request.model, after=after)
        token = ""
        if len(runs) > size:
            last = runs[size - 1]
            token = encode_page_token(f"{last.create_time!r} {last.run_id}", scope=scope)
        return evaluation_pb2.ListRunsResponse(runs=[run_message(run) for run in runs[:size]], next_page_token=token)

    async def CancelRun(
        self,
        request: evaluation_pb2.CancelRunRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.CancelRunRequest, evaluation_pb2.CancelRunResponse],
    ) -> evaluation_pb2.CancelRunResponse:
        """Stop a run."""
        run = await self._manager.cancel(resource_id(request.name, "runs"))
        return evaluation_pb2.CancelRunResponse(run=run_message(run))

    async def WatchRun(
        self,
        request: evaluation_pb2.WatchRunRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.WatchRunRequest, evaluation_pb2.WatchRunResponse],
    ) -> AsyncIterator[evaluation_pb2.WatchRunResponse]:
        """Stream progress until the run has ended; estimates are refreshed every second, of large runs more rarely."""
        loop = asyncio.get_running_loop()
        response = evaluation_pb2.WatchRunResponse()
        refresh_at = loop.time()
        run_id = resource_id(request.name, "runs")
        watcher = Watcher(run_id, request.resume_token)
        async with contextlib.aclosing(self._manager.watch(run_id)) as changes:
            async for run in changes:
                response.run.CopyFrom(run_message(run))
                del response.events[:]
                response.events.extend(event_message(run.name, event) for event in watcher.news(run))
                response.resume_token = watcher.token
                if (began := loop.time()) >= refresh_at or run.state.is_final:
                    await self._refresh(response, run)
                    taken = loop.time() - began
                    refresh_at = loop.time() + max(_ESTIMATES_EVERY_SECONDS, _PAUSE_OVER_REFRESH * taken)
                yield response

    async def EstimateRun(
        self,
        request: evaluation_pb2.EstimateRunRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.EstimateRunRequest, evaluation_pb2.EstimateRunResponse],
    ) -> evaluation_pb2.EstimateRunResponse:
        """Say what a run would probably cost."""
        return plan_message(await self._planner.plan(run_request(request.run, needs_model=False)))

    async def GetCallerBudget(
        self,
        request: evaluation_pb2.GetCallerBudgetRequest,
        context: grpc.aio.ServicerContext[
            evaluation_pb2.GetCallerBudgetRequest, evaluation_pb2.GetCallerBudgetResponse
        ],
    ) -> evaluation_pb2.GetCallerBudgetResponse:
        """Read what a caller may spend today, and what is left of it."""
        caller = checked_caller(request.caller, field="caller") if request.caller else current_caller()
        account = await self._allowances.account(caller)
        return evaluation_pb2.GetCallerBudgetResponse(budget=caller_budget_message(account))

    async def ListSuites(
        self,
        request: evaluation_pb2.ListSuitesRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.ListSuitesRequest, evaluation_pb2.ListSuitesResponse],
    ) -> evaluation_pb2.ListSuitesResponse:
        """List the suites that can be run."""
        page = paginate(
            self._catalog.suite_names,
            key=str,
            page_size=request.page_size,
            page_token=request.page_token,
            scope="ListSuites",
        )
        suites = []
        for name in page.items:
            # A suite whose file is broken is not listed; asking for it says what is wrong with it.
            with contextlib.suppress(SpecificationError):
                suites.append(suite_message(self._catalog.suite(name)))
        return evaluation_pb2.ListSuitesResponse(suites=suites, next_page_token=page.next_page_token)

    async def GetSuite(
        self,
        request: evaluation_pb2.GetSuiteRequest,
        context: grpc.aio.ServicerContext[evaluation_pb2.GetSuiteRequest, evaluation_pb2.GetSuiteResponse],
    ) -> evaluation_pb2.GetSuiteResponse:
        """Read one suite."""
        suite = self._catalog.suite(resource_id(request.name, "suites"))
        return evaluation_pb2.GetSuiteResponse(suite=suite_message(suite))

    async def _refresh(self, response: evaluation_pb2.WatchRunResponse, run: Run) -> None:
        """Put the latest estimates into ``response``; a ledger that is away leaves those of before.

        The last message of a run must have its final estimates, so it waits for them as long as the caller does.
        """
        patience = _FINAL_ESTIMATES_PATIENCE_SECONDS if run.state.is_final else 0.0
        try:
            latest = await wait_out(partial(self._ledger.estimates, run.name), patience_seconds=patience)
        except FleetError:
            if run.state.is_final:
                raise
            return
        del response.estimates[:], response.totals[:]
        response.estimates.extend(latest.estimates)
        response.totals.extend(latest.totals)
