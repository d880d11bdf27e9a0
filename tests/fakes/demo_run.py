"""What the fake fleet says of the demo suite: its tasks, runs, estimates and totals."""

from evalfleet.aggregation.v1 import (
    aggregation_pb2,
)
from evalfleet.common.v1 import common_pb2
from evalfleet.evaluation.v1 import evaluation_pb2
from google.protobuf.timestamp_pb2 import Timestamp

CREATED = Timestamp(seconds=1_790_000_000)


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
