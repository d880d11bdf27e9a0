"""What the evaluation and the aggregation service are asked about runs."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Final, TypedDict, Unpack

from evalfleet import decoding
from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from evalfleet.connections import LARGEST_PAGE
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.goal_messages import add_goal
from evalfleet.goals import Budget, Gate, ModelChange
from evalfleet.names import full_name
from evalfleet.results import GuardQuality, JudgeReference, Run, RunSnapshot

PATIENCE_SECONDS: Final = 60.0


class PlanOptions(TypedDict, total=False):
    """What decides the cost of a run: see ``evalfleet.runs.Runs.start``."""

    tasks: Sequence[str]
    item_limit: int | None
    gates: Iterable[Gate | str]
    precision: float | None
    confidence: float | None
    budget: Budget | str | None
    tier: str
    use_history: bool | None


class RunOptions(PlanOptions, total=False):
    """All that may be said of a run beside its model and its suite: see ``evalfleet.runs.Runs.start``."""

    seed: int | None
    concurrency: int | None
    run_id: str | None
    priority: int
    stop_at_failure: bool | None
    previous_run: str
    escalate: bool
    change: ModelChange | str | None
    sample_count: int | None
    temperature: float | None
    request_id: str | None


def create_request(*, model: str, suite: str, **options: Unpack[RunOptions]) -> evaluation_pb2.CreateRunRequest:
    """Ask for a run.

    Raises:
        ValueError: a gate, the budget or the change cannot be read.
    """
    request = evaluation_pb2.CreateRunRequest(
        suite=full_name("suites", suite),
        model=full_name("models", model) if model else "",
        run_id=options.get("run_id"),
        seed=options.get("seed"),
        item_limit=options.get("item_limit"),
        tasks=options.get("tasks", ()),
        concurrency=options.get("concurrency"),
        request_id=options.get("request_id") or str(uuid.uuid4()),
        priority=options.get("priority", 0),
        stop_at_failure=options.get("stop_at_failure"),
        escalate=options.get("escalate", False),
    )
    add_goal(
        request,
        gates=options.get("gates", ()),
        precision=options.get("precision"),
        confidence=options.get("confidence"),
        budget=options.get("budget"),
        tier=options.get("tier", ""),
        use_history=options.get("use_history"),
        previous_run=options.get("previous_run", ""),
        change=options.get("change"),
        sample_count=options.get("sample_count"),
        temperature=options.get("temperature"),
    )
    return request


def plan_request(*, suite: str, model: str, **options: Unpack[PlanOptions]) -> evaluation_pb2.EstimateRunRequest:
    """Ask what a run would cost.

    Raises:
        ValueError: a gate or the budget cannot be read.
    """
    run = create_request(model=model, suite=suite, **options)
    run.ClearField("request_id")
    return evaluation_pb2.EstimateRunRequest(run=run)


def runs_request(page_token: str, *, model: str | None, limit: int) -> evaluation_pb2.ListRunsRequest:
    """Ask for a page of runs."""
    return evaluation_pb2.ListRunsRequest(
        page_size=min(limit, LARGEST_PAGE),
        page_token=page_token,
        model=full_name("models", model) if model else "",
    )


def estimates_request(
    run: str, guard_qualities: Sequence[GuardQuality], *, with_set_measures: bool
) -> aggregation_pb2.GetEstimatesRequest:
    """Ask for the estimates of a run, by its full name."""
    return aggregation_pb2.GetEstimatesRequest(
        run=run,
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


def results_request(
    page_token: str, *, run: str, task: str = "", failed_only: bool, limit: int = LARGEST_PAGE
) -> aggregation_pb2.ListResultsRequest:
    """Ask for a page of a run's results."""
    return aggregation_pb2.ListResultsRequest(
        run=full_name("runs", run),
        task=task,
        failed_only=failed_only,
        page_size=min(limit, LARGEST_PAGE),
        page_token=page_token,
    )


def estimated(run: Run, message: aggregation_pb2.GetEstimatesResponse) -> RunSnapshot:
    """Translate a run's estimates."""
    return RunSnapshot(
        run=run,
        estimates=tuple(decoding.estimate(each) for each in message.estimates),
        totals=tuple(decoding.totals(each) for each in message.totals),
        set_measures=tuple(decoding.set_measure(each) for each in message.set_measures),
    )


def watched(message: evaluation_pb2.WatchRunResponse) -> RunSnapshot:
    """Translate a run as it stands."""
    return RunSnapshot(
        run=decoding.run(message.run),
        estimates=tuple(decoding.estimate(each) for each in message.estimates),
        totals=tuple(decoding.totals(each) for each in message.totals),
        events=tuple(decoding.run_event(each) for each in message.events),
        resume_token=message.resume_token,
    )


def _reference(judge: JudgeReference | None) -> common_pb2.JudgeReference | None:
    if judge is None:
        return None
    return common_pb2.JudgeReference(name=judge.name, version=judge.version, digest=judge.digest)
