"""A fake of the evaluation service: plays back what a test says of the demo suite's runs."""

import threading
from collections.abc import Iterator

import grpc
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc

from tests.fakes.demo_run import demo_suite, make_run
from tests.fakes.refusing import fail


class FakeEvaluation(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Plays back ``scripts``: the answers of one WatchRun stream after another; the last one is played again."""

    def __init__(self) -> None:
        self.runs: dict[str, evaluation_pb2.Run] = {}
        self.suites = {"suites/demo": demo_suite()}
        self.created: list[evaluation_pb2.CreateRunRequest] = []
        self.planned: list[evaluation_pb2.CreateRunRequest] = []
        self.plan = evaluation_pb2.EstimateRunResponse()
        self.answer: evaluation_pb2.Run | None = None
        self.budgets: dict[str, evaluation_pb2.CallerBudget] = {}
        self.cancelled: list[str] = []
        self.scripts: list[list[evaluation_pb2.WatchRunResponse | grpc.StatusCode]] = []
        self.watch_count = 0
        self.watching = threading.Event()
        self.watch_ended = threading.Event()
        self.hold = False
        self.unavailable_count = 0

    def put(self, run: evaluation_pb2.Run) -> evaluation_pb2.Run:
        """Register a run."""
        self.runs[run.name] = run
        return run

    def CreateRun(
        self, request: evaluation_pb2.CreateRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.CreateRunResponse:
        self.created.append(request)
        if request.suite not in self.suites:
            fail(context, grpc.StatusCode.NOT_FOUND, f"no suite named {request.suite!r}", reason="SUITE_NOT_FOUND")
        run = make_run(request.run_id or "r1", state=evaluation_pb2.RUN_STATE_PENDING, model=request.model)
        if run.name not in self.runs:
            self.put(run)
        return evaluation_pb2.CreateRunResponse(run=self.answer or run)

    def GetRun(
        self, request: evaluation_pb2.GetRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.GetRunResponse:
        return evaluation_pb2.GetRunResponse(run=self._find(request.name, context))

    def ListRuns(
        self, request: evaluation_pb2.ListRunsRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.ListRunsResponse:
        if self.unavailable_count:
            self.unavailable_count -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "")
        wanted = [each for each in self.runs.values() if request.model in ("", each.model)]
        start = int(request.page_token or 0)
        following = str(start + request.page_size) if start + request.page_size < len(wanted) else ""
        return evaluation_pb2.ListRunsResponse(
            runs=wanted[start : start + request.page_size], next_page_token=following
        )

    def CancelRun(
        self, request: evaluation_pb2.CancelRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.CancelRunResponse:
        run = self._find(request.name, context)
        self.cancelled.append(run.name)
        run.state = evaluation_pb2.RUN_STATE_CANCELLED
        return evaluation_pb2.CancelRunResponse(run=run)

    def WatchRun(
        self, request: evaluation_pb2.WatchRunRequest, context: grpc.ServicerContext
    ) -> Iterator[evaluation_pb2.WatchRunResponse]:
        run = self._find(request.name, context)
        script = self.scripts[min(self.watch_count, len(self.scripts) - 1)]
        self.watch_count += 1
        for step in script:
            if isinstance(step, grpc.StatusCode):
                context.abort(step, "")
            run.CopyFrom(step.run)
            yield step
        self.watching.set()
        if self.hold:
            context.add_callback(self.watch_ended.set)
            self.watch_ended.wait(30)

    def EstimateRun(
        self, request: evaluation_pb2.EstimateRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.EstimateRunResponse:
        self.planned.append(request.run)
        return self.plan

    def GetCallerBudget(
        self, request: evaluation_pb2.GetCallerBudgetRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.GetCallerBudgetResponse:
        caller = request.caller or dict(context.invocation_metadata()).get("evalfleet-caller", "anonymous")
        unlimited = evaluation_pb2.CallerBudget(caller=str(caller), pattern="*", day="2026-01-31")
        return evaluation_pb2.GetCallerBudgetResponse(budget=self.budgets.get(str(caller), unlimited))

    def ListSuites(
        self, request: evaluation_pb2.ListSuitesRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.ListSuitesResponse:
        return evaluation_pb2.ListSuitesResponse(suites=[self.suites[each] for each in sorted(self.suites)])

    def GetSuite(
        self, request: evaluation_pb2.GetSuiteRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.GetSuiteResponse:
        if request.name not in self.suites:
            message = f"no suite named {request.name!r}; did you mean 'demo'?"
            fail(context, grpc.StatusCode.NOT_FOUND, message, reason="SUITE_NOT_FOUND")
        return evaluation_pb2.GetSuiteResponse(suite=self.suites[request.name])

    def _find(self, name: str, context: grpc.ServicerContext) -> evaluation_pb2.Run:
        if name not in self.runs:
            fail(context, grpc.StatusCode.NOT_FOUND, f"no run named {name!r}", reason="RUN_NOT_FOUND")
        return self.runs[name]
