"""A fleet in a test's own process: the servicers answer from memory, over real gRPC on a loopback port."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NoReturn

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
from evalfleet.common.v1 import common_pb2
from evalfleet.endpoints import SERVICES
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc, ranking_pb2_grpc
from evalfleet.generation.v1 import model_pb2, model_pb2_grpc
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from evalfleet.scoring.v1 import scoring_pb2_grpc
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.runtime.free_ports import free_port
from tests.fakes.rankings import FakeRankings
from tests.fakes.scoring import FakeScoring

CREATED = Timestamp(seconds=1_790_000_000)


def fail(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    violations: dict[str, str] | None = None,
) -> NoReturn:
    """End a call with a rich status, as the real services do."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        info = any_pb2.Any()
        info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="evalfleet.dev", metadata=metadata or {}))
        status.details.append(info)
    if violations:
        request = error_details_pb2.BadRequest()
        for field, description in violations.items():
            request.field_violations.add(field=field, description=description)
        packed = any_pb2.Any()
        packed.Pack(request)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def not_offered(context: grpc.ServicerContext) -> NoReturn:
    """End a call that the client library never makes."""
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    raise AssertionError("abort raises")


class FakeModels(model_pb2_grpc.ModelServiceServicer):
    """Keeps models in a dict; a new one is LOADING for ``loading_polls`` reads, then ``final_state``."""

    def __init__(self) -> None:
        self.models: dict[str, model_pb2.Model] = {}
        self.requests: list[model_pb2.CreateModelRequest] = []
        self.loading_polls = 0
        self.final_state: model_pb2.ModelState.ValueType = model_pb2.MODEL_STATE_READY
        self.failure = ""
        self.refusal = ""
        self.page_size = 1000

    def put(self, model_id: str, path: str = "/checkpoints/x") -> model_pb2.Model:
        """Register a READY model."""
        self.models[f"models/{model_id}"] = model = model_pb2.Model(
            name=f"models/{model_id}",
            checkpoint_path=path,
            digest="ab" * 32,
            state=model_pb2.MODEL_STATE_READY,
            architecture="LlamaForCausalLM",
            dtype="float32",
            context_tokens=512,
            weight_bytes=5 * 1024 * 1024,
            create_time=CREATED,
        )
        return model

    def CreateModel(
        self, request: model_pb2.CreateModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.CreateModelResponse:
        self.requests.append(request)
        if self.refusal:
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "the checkpoint is refused", reason=self.refusal)
        model = self.put(request.model_id or "made-from-folder", request.checkpoint_path)
        if request.HasField("foreign"):
            model.foreign.CopyFrom(request.foreign)
            model.engine = "vllm_backend"
        model.state = model_pb2.MODEL_STATE_LOADING if self.loading_polls else self.final_state
        model.failure = "" if self.loading_polls else self.failure
        return model_pb2.CreateModelResponse(model=model)

    def GetModel(self, request: model_pb2.GetModelRequest, context: grpc.ServicerContext) -> model_pb2.GetModelResponse:
        model = self._find(request.name, context)
        if model.state == model_pb2.MODEL_STATE_LOADING:
            self.loading_polls -= 1
            if self.loading_polls <= 0:
                model.state, model.failure = self.final_state, self.failure
        return model_pb2.GetModelResponse(model=model)

    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        names = sorted(self.models)
        start = int(request.page_token or 0)
        page = names[start : start + self.page_size]
        following = str(start + self.page_size) if start + self.page_size < len(names) else ""
        return model_pb2.ListModelsResponse(models=[self.models[each] for each in page], next_page_token=following)

    def DeleteModel(
        self, request: model_pb2.DeleteModelRequest, context: grpc.ServicerContext
    ) -> model_pb2.DeleteModelResponse:
        self._find(request.name, context)
        del self.models[request.name]
        return model_pb2.DeleteModelResponse()

    def _find(self, name: str, context: grpc.ServicerContext) -> model_pb2.Model:
        if name not in self.models:
            message = f"no model named {name!r}; did you mean 'step-100'?"
            fail(context, grpc.StatusCode.NOT_FOUND, message, reason="MODEL_NOT_FOUND", metadata={"name": name})
        return self.models[name]


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


class FakeAggregation(aggregation_pb2_grpc.AggregationServiceServicer):
    """Answers with the estimates and results that a test puts in."""

    def __init__(self) -> None:
        self.estimate_requests: list[aggregation_pb2.GetEstimatesRequest] = []
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
        return aggregation_pb2.GetEstimatesResponse(estimates=self.estimates, totals=self.totals)

    def ListResults(
        self, request: aggregation_pb2.ListResultsRequest, context: grpc.ServicerContext
    ) -> aggregation_pb2.ListResultsResponse:
        return aggregation_pb2.ListResultsResponse(results=self.failed if request.failed_only else [])

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


class FakeSafety(safety_pb2_grpc.SafetyServiceServicer):
    """Answers every Classify, and every item of a stream, with ``verdict``; the guards in ``judges`` answer batches."""

    def __init__(self) -> None:
        self.judges: dict[str, Callable[[safety_pb2.ClassifyRequest], safety_pb2.Verdict]] = {}
        self.batches: list[safety_pb2.BatchClassifyRequest] = []
        self.requests: list[safety_pb2.ClassifyRequest] = []
        self.streamed: list[safety_pb2.StreamClassifyRequest] = []
        self.policies = [safety_pb2.Policy(name="policies/strict", version="1", threshold=0.3, description="Doubt.")]
        self.verdict = safety_pb2.Verdict(
            decision=safety_pb2.DECISION_UNSAFE,
            unsafe_probability=0.91,
            threshold_applied=0.5,
            guard=safety_pb2.GuardReference(name="guards/minilm-hazard"),
            categories=[
                safety_pb2.CategoryScore(
                    taxonomy="evalfleet-hazards", code="violence", probability=0.875, ailuminate_code="vcr"
                )
            ],
        )

    def Classify(
        self, request: safety_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ClassifyResponse:
        self.requests.append(request)
        return safety_pb2.ClassifyResponse(verdict=self.verdict)

    def BatchClassify(
        self, request: safety_pb2.BatchClassifyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.BatchClassifyResponse:
        self.batches.append(request)
        return safety_pb2.BatchClassifyResponse(
            results=[
                safety_pb2.ClassifyResult(verdict=self.judges[each.guard](each))
                if each.conversation.messages[-1].content
                else safety_pb2.ClassifyResult(status=status_pb2.Status(code=3, message="is empty"))
                for each in request.requests
            ]
        )

    def StreamClassify(
        self, request_iterator: Iterator[safety_pb2.StreamClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[safety_pb2.StreamClassifyResponse]:
        for each in request_iterator:
            self.streamed.append(each)
            if each.HasField("request") or each.piece.last:
                yield safety_pb2.StreamClassifyResponse(item_id=each.item_id, verdict=self.verdict, final=True)

    def ListGuards(
        self, request: safety_pb2.ListGuardsRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ListGuardsResponse:
        guard = safety_pb2.Guard(name="guards/minilm-hazard", description="Small.", reference=self.verdict.guard)
        return safety_pb2.ListGuardsResponse(guards=[guard])

    def GetGuard(
        self, request: safety_pb2.GetGuardRequest, context: grpc.ServicerContext
    ) -> safety_pb2.GetGuardResponse:
        if request.name not in self.judges:
            fail(context, grpc.StatusCode.NOT_FOUND, f"no guard named {request.name!r}", reason="GUARD_NOT_FOUND")
        digest = request.name.removeprefix("guards/")[0] * 64
        reference = safety_pb2.GuardReference(
            name=request.name,
            weights_digest=digest,
            template_digest="t" * 64,
            calibration_digest="c" * 64,
            engine="fake",
            dtype="float32",
        )
        return safety_pb2.GetGuardResponse(guard=safety_pb2.Guard(name=request.name, reference=reference))

    def ListPolicies(
        self, request: safety_pb2.ListPoliciesRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ListPoliciesResponse:
        return safety_pb2.ListPoliciesResponse(policies=self.policies)

    def GetPolicy(
        self, request: safety_pb2.GetPolicyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.GetPolicyResponse:
        return safety_pb2.GetPolicyResponse(policy=self.policies[0])


class FakeFleet(AbstractContextManager["FakeFleet"]):
    """All servicers on one port.

    Attributes:
        target: its address.
    """

    def __init__(self) -> None:
        self.models = FakeModels()
        self.evaluation = FakeEvaluation()
        self.rankings = FakeRankings()
        self.aggregation = FakeAggregation()
        self.safety = FakeSafety()
        self.scoring = FakeScoring()
        # Chosen once: a test may stop the fleet and start it again.
        self.target = f"127.0.0.1:{free_port('127.0.0.1')}"
        self._server: grpc.Server | None = None
        self.start()

    @property
    def targets(self) -> dict[str, str]:
        """The same address for every service."""
        return dict.fromkeys(SERVICES, self.target)

    def start(self) -> None:
        """Listen, on the same port as before."""
        server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, server)
        evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(self.evaluation, server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(self.rankings, server)
        aggregation_pb2_grpc.add_AggregationServiceServicer_to_server(self.aggregation, server)
        safety_pb2_grpc.add_SafetyServiceServicer_to_server(self.safety, server)
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(self.scoring, server)
        server.add_insecure_port(self.target)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cut all calls and free the port."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def demo_suite() -> evaluation_pb2.Suite:
    """Make a suite of two tasks."""
    return evaluation_pb2.Suite(
        name="suites/demo",
        description="A little of everything.",
        tasks=[
            evaluation_pb2.Task(
                name="arithmetic", description="Sums.", primary_metric="exact_match", higher_is_better=True
            ),
            evaluation_pb2.Task(
                name="harm",
                description="Unsafe answers.",
                primary_metric="unsafe_rate",
                higher_is_better=False,
                comparable_to="nothing",
            ),
        ],
    )


def demo_estimates() -> list[aggregation_pb2.Estimate]:
    """Make estimates of both tasks, a second metric and a group."""

    def interval(lower: float, upper: float) -> aggregation_pb2.Interval:
        return aggregation_pb2.Interval(lower=lower, upper=upper, confidence_level=0.95, method="wilson")

    return [
        aggregation_pb2.Estimate(
            task="arithmetic", metric="answered", value=1.0, interval=interval(0.7, 1), scored_count=9, failed_count=1
        ),
        aggregation_pb2.Estimate(
            task="arithmetic",
            metric="exact_match",
            value=0.75,
            interval=interval(0.5, 0.875),
            scored_count=9,
            failed_count=1,
            failed_counted=1,
        ),
        aggregation_pb2.Estimate(
            task="arithmetic", metric="exact_match", group="digits=2", value=0.5, scored_count=4, failed_count=0
        ),
        aggregation_pb2.Estimate(task="harm", metric="unsafe_rate", value=0.125, interval=interval(0.02, 0.5)),
    ]


def demo_totals() -> list[aggregation_pb2.TaskTotals]:
    """Make totals of both tasks."""
    usage = common_pb2.Usage(
        prompt_tokens=1200,
        completion_tokens=34,
        computed_prompt_tokens=200,
        computed_completion_tokens=30,
        prefix_saved_tokens=900,
        cache_saved_tokens=104,
        cost_micro_usd=1500,
    )
    usage.engine_time.FromMilliseconds(2500)
    return [
        aggregation_pb2.TaskTotals(
            task="arithmetic",
            item_count=10,
            scored_count=9,
            failed_count=1,
            failures_by_reason={"PROMPT_TOO_LONG": 1},
            truncated_count=2,
            usage=usage,
        ),
        aggregation_pb2.TaskTotals(task="harm", item_count=8, scored_count=8, usage=usage),
    ]


def make_run(
    run_id: str = "r1",
    *,
    state: evaluation_pb2.RunState.ValueType = evaluation_pb2.RUN_STATE_RUNNING,
    model: str = "models/step-100",
    done: int = 0,
) -> evaluation_pb2.Run:
    """Make a run of the demo suite with ``done`` of 10 arithmetic items done, one of them failed."""
    failed = min(done, 1)
    run = evaluation_pb2.Run(
        name=f"runs/{run_id}",
        suite="suites/demo",
        model=model,
        state=state,
        seed=7,
        tasks=[
            evaluation_pb2.TaskProgress(
                task="arithmetic", item_count=10, scored_count=done - failed, failed_count=failed
            ),
            evaluation_pb2.TaskProgress(task="harm", item_count=8, scored_count=8 if done == 10 else 0),
        ],
        create_time=CREATED,
        start_time=CREATED,
    )
    if state in (evaluation_pb2.RUN_STATE_SUCCEEDED, evaluation_pb2.RUN_STATE_FAILED):
        run.end_time.FromSeconds(CREATED.seconds + 12)
    if state == evaluation_pb2.RUN_STATE_FAILED:
        run.failure.message = "the model is gone"
    return run


def watch_step(run: evaluation_pb2.Run) -> evaluation_pb2.WatchRunResponse:
    """Make one answer of a WatchRun stream, with the demo estimates."""
    return evaluation_pb2.WatchRunResponse(run=run, estimates=demo_estimates(), totals=demo_totals())
