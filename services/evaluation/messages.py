"""From the domain to evaluation.proto."""

from evalfleet.evaluation.v1 import evaluation_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.evaluation.runs.record import Run, RunFailure, RunState, TaskProgress
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import ERROR_DOMAIN

_STATES = {
    RunState.PENDING: evaluation_pb2.RUN_STATE_PENDING,
    RunState.RUNNING: evaluation_pb2.RUN_STATE_RUNNING,
    RunState.SUCCEEDED: evaluation_pb2.RUN_STATE_SUCCEEDED,
    RunState.FAILED: evaluation_pb2.RUN_STATE_FAILED,
    RunState.CANCELLED: evaluation_pb2.RUN_STATE_CANCELLED,
}


def run_message(run: Run) -> evaluation_pb2.Run:
    """A run as it stands."""
    message = evaluation_pb2.Run(
        name=run.name,
        suite=f"suites/{run.suite}",
        suite_digest=run.suite_digest,
        model=run.model,
        model_digest=run.model_digest,
        state=_STATES[run.state],
        seed=run.seed,
        item_limit=run.item_limit,
        priority=run.priority,
        tasks=[_progress_message(each) for each in run.progress],
    )
    if run.failure is not None:
        message.failure.CopyFrom(_failure_message(run.failure))
    message.create_time.FromNanoseconds(int(run.create_time * 1e9))
    if run.start_time is not None:
        message.start_time.FromNanoseconds(int(run.start_time * 1e9))
    if run.end_time is not None:
        message.end_time.FromNanoseconds(int(run.end_time * 1e9))
    return message


def suite_message(suite: Suite) -> evaluation_pb2.Suite:
    """A suite with its tasks."""
    return evaluation_pb2.Suite(
        name=f"suites/{suite.name}",
        description=suite.description,
        tasks=[_task_message(task) for task in suite.tasks],
        digest=suite.digest,
    )


def _task_message(task: Task) -> evaluation_pb2.Task:
    return evaluation_pb2.Task(
        name=task.name,
        description=task.spec.description,
        primary_metric=task.spec.primary_metric,
        higher_is_better=task.spec.higher_is_better,
        comparable_to=str(task.spec.comparable_to or ""),
        digest=task.digest,
    )


def _progress_message(progress: TaskProgress) -> evaluation_pb2.TaskProgress:
    return evaluation_pb2.TaskProgress(
        task=progress.task,
        item_count=progress.item_count,
        scored_count=progress.scored_count,
        failed_count=progress.failed_count,
        data_digest=progress.data_digest,
    )


def _failure_message(failure: RunFailure) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.ValueType(failure.code), message=failure.message)
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain=ERROR_DOMAIN, metadata=dict(failure.metadata))
    status.details.add().Pack(info)
    return status
