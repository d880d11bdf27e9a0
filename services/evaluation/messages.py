"""From the domain to evaluation.proto."""

import dataclasses
import datetime
import time

from evalfleet.evaluation.v1 import evaluation_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.evaluation.checks import CHANGES
from services.evaluation.runs.allowances import CallerAccount
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.drawing_messages import DIRECTIONS, decision_to_proto
from services.evaluation.runs.events import RunEvent
from services.evaluation.runs.gates import Depth, Gate, GoalWish
from services.evaluation.runs.planning import CostBasis, RunPlan
from services.evaluation.runs.record import Run, RunFailure, RunState, StopReason, TaskProgress
from services.evaluation.runs.tiers import TIERS, goal_of, tier_exists
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import ERROR_DOMAIN

RUN_STATES = {
    RunState.PENDING: evaluation_pb2.RUN_STATE_PENDING,
    RunState.RUNNING: evaluation_pb2.RUN_STATE_RUNNING,
    RunState.SUCCEEDED: evaluation_pb2.RUN_STATE_SUCCEEDED,
    RunState.FAILED: evaluation_pb2.RUN_STATE_FAILED,
    RunState.CANCELLED: evaluation_pb2.RUN_STATE_CANCELLED,
}

STOP_REASONS = {
    StopReason.COMPLETE: evaluation_pb2.STOP_REASON_COMPLETE,
    StopReason.DECIDED: evaluation_pb2.STOP_REASON_DECIDED,
    StopReason.GATE_FAILED: evaluation_pb2.STOP_REASON_GATE_FAILED,
    StopReason.BUDGET_EXHAUSTED: evaluation_pb2.STOP_REASON_BUDGET_EXHAUSTED,
    StopReason.CALLER_BUDGET_EXHAUSTED: evaluation_pb2.STOP_REASON_CALLER_BUDGET_EXHAUSTED,
}

_BASES = {
    CostBasis.SAME_MODEL: evaluation_pb2.COST_BASIS_SAME_MODEL,
    CostBasis.OTHER_MODEL: evaluation_pb2.COST_BASIS_OTHER_MODEL,
    CostBasis.PROMPTS: evaluation_pb2.COST_BASIS_PROMPTS,
}


def run_message(run: Run) -> evaluation_pb2.Run:
    """A run as it stands."""
    message = evaluation_pb2.Run(
        name=run.name,
        suite=f"suites/{run.suite}",
        suite_digest=run.suite_digest,
        model=run.model,
        model_digest=run.model_digest,
        state=RUN_STATES[run.state],
        seed=run.seed,
        item_limit=run.item_limit,
        priority=run.priority,
        caller=run.caller or "",
        tasks=[_progress_message(each) for each in run.progress],
    )
    _add_goal(message, run)
    if run.failure is not None:
        message.failure.CopyFrom(failure_message(run.failure))
    message.create_time.FromNanoseconds(int(run.create_time * 1e9))
    if run.start_time is not None:
        message.start_time.FromNanoseconds(int(run.start_time * 1e9))
    if run.end_time is not None:
        message.end_time.FromNanoseconds(int(run.end_time * 1e9))
    return message


def _add_goal(message: evaluation_pb2.Run, run: Run) -> None:
    """Fill in what the run is to find out, and what it has decided and spent."""
    goal = run.goal
    if run.stop_reason is not None:
        message.stop_reason = STOP_REASONS[run.stop_reason]
    message.confidence = goal.confidence
    message.tier = goal.tier
    if goal.depth.sample_count is not None:
        message.sample_count = goal.depth.sample_count
    if goal.depth.temperature is not None:
        message.temperature = goal.depth.temperature
    if goal.tier_choice is not None:
        message.tier_choice.change = CHANGES[goal.tier_choice.change]
        message.tier_choice.compared_run = goal.tier_choice.compared_run
        message.tier_choice.reason = goal.tier_choice.reason
    if run.escalation is not None:
        message.escalates = True
        message.earlier_run = run.escalation.earlier_run
        message.next_run = run.escalation.next_run
    if goal.precision is not None:
        message.precision = goal.precision
    message.gates.extend(_gate_message(gate) for gate in goal.gates)
    message.decisions.extend(decision_to_proto(run.name, each) for each in run.decisions)
    if not goal.is_metered:
        return
    if goal.budget.is_limited:
        message.budget.CopyFrom(evaluation_pb2.Budget(**dataclasses.asdict(goal.budget)))
    ended = run.end_time or time.time()
    seconds = max(0.0, ended - run.start_time) if run.start_time is not None else 0.0
    message.spend.CopyFrom(spend_message(run.spent, seconds))


def event_message(run: str, event: RunEvent) -> evaluation_pb2.RunEvent:
    """Something that happened to ``run``."""
    if event.state is not None:
        return evaluation_pb2.RunEvent(state=RUN_STATES[event.state])
    decision = None if event.decision is None else decision_to_proto(run, event.decision)
    return evaluation_pb2.RunEvent(decision=decision)


def plan_message(plan: RunPlan) -> evaluation_pb2.EstimateRunResponse:
    """What a run would probably cost."""
    return evaluation_pb2.EstimateRunResponse(
        tasks=[
            evaluation_pb2.TaskPlan(
                task=each.task,
                item_count=each.item_count,
                expected_item_count=each.expected_item_count,
                expected=spend_message(each.expected, each.wall_seconds),
                basis=_BASES[each.basis],
                basis_run=each.basis_run,
            )
            for each in plan.tasks
        ],
        expected=spend_message(plan.expected, plan.wall_seconds),
        exceeds_budget=plan.exceeds_budget,
        exceeds_caller_budget=plan.exceeds_caller_budget,
        caller_budget=None if plan.account is None else caller_budget_message(plan.account),
    )


def caller_budget_message(account: CallerAccount) -> evaluation_pb2.CallerBudget:
    """What a caller may spend today, and what is left of it."""
    message = evaluation_pb2.CallerBudget(
        caller=account.caller,
        pattern=account.budget.pattern,
        day=account.today.day,
        spent=spend_message(account.today.spent, 0.0),
        reserved=spend_message(account.today.reserved, 0.0),
    )
    if account.budget.limit.is_limited:
        message.limit.CopyFrom(evaluation_pb2.Budget(**dataclasses.asdict(account.budget.limit)))
    reset = datetime.datetime.fromisoformat(account.today.day).replace(tzinfo=datetime.UTC) + datetime.timedelta(1)
    message.reset_time.FromDatetime(reset)
    return message


def spend_message(spend: Spend, wall_seconds: float) -> evaluation_pb2.Spend:
    """What was spent."""
    return evaluation_pb2.Spend(
        items=round(spend.items),
        tokens=round(spend.tokens),
        engine_seconds=spend.engine_seconds,
        cost_micro_usd=round(spend.cost_micro_usd),
        wall_seconds=wall_seconds,
    )


def suite_message(suite: Suite) -> evaluation_pb2.Suite:
    """A suite with its tasks."""
    return evaluation_pb2.Suite(
        name=f"suites/{suite.name}",
        description=suite.description,
        tasks=[_task_message(task) for task in suite.tasks],
        digest=suite.digest,
        tiers=[_tier_message(name, suite) for name in TIERS if tier_exists(name, suite)],
    )


def _tier_message(name: str, suite: Suite) -> evaluation_pb2.Tier:
    goal = goal_of(GoalWish(tier=name), suite)
    message = evaluation_pb2.Tier(
        name=name,
        gates=[_gate_message(gate) for gate in goal.gates],
        precision=goal.precision,
        stops_at_failure=goal.stops_at_failure,
        sample_count=goal.depth.sample_count,
        temperature=goal.depth.temperature,
        safety_judge=_judge_name(goal.depth),
        starts_for=[number for change, number in CHANGES.items() if suite.starting_tiers[change.value] == name],
    )
    if goal.budget.is_limited:
        message.budget.CopyFrom(evaluation_pb2.Budget(**dataclasses.asdict(goal.budget)))
    return message


def _judge_name(depth: Depth) -> str:
    if depth.policy is not None:
        return f"policies/{depth.policy}"
    return "" if depth.guard is None else f"guards/{depth.guard}"


def _gate_message(gate: Gate) -> evaluation_pb2.Gate:
    return evaluation_pb2.Gate(
        task=gate.task, metric=gate.metric, direction=DIRECTIONS[gate.direction], threshold=gate.threshold
    )


def _task_message(task: Task) -> evaluation_pb2.Task:
    return evaluation_pb2.Task(
        name=task.name,
        description=task.spec.description,
        primary_metric=task.spec.primary_metric,
        higher_is_better=task.spec.higher_is_better,
        comparable_to=str(task.spec.comparable_to or ""),
        digest=task.digest,
        metrics=[
            evaluation_pb2.TaskMetric(
                name=each.name, higher_is_better=each.higher_is_better, description=each.description
            )
            for each in task.spec.metrics
        ],
    )


def _progress_message(progress: TaskProgress) -> evaluation_pb2.TaskProgress:
    return evaluation_pb2.TaskProgress(
        task=progress.task,
        item_count=progress.item_count,
        scored_count=progress.scored_count,
        failed_count=progress.failed_count,
        data_digest=progress.data_digest,
    )


def failure_message(failure: RunFailure) -> status_pb2.Status:
    """Why something could not go on."""
    status = status_pb2.Status(code=code_pb2.Code.ValueType(failure.code), message=failure.message)
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain=ERROR_DOMAIN, metadata=dict(failure.metadata))
    status.details.add().Pack(info)
    return status
