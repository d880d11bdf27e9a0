"""Which runs without a drawing of their own may steer the drawings of a new one."""

from collections.abc import Mapping, Sequence

from services.evaluation.runs.record import Run, RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import TaskItems

_RUNS_LOOKED_AT = 500
_MOST_RUNS = 50


async def earlier_runs(run: Run, tasks: Sequence[TaskItems], store: RunStore) -> Mapping[str, tuple[str, ...]]:
    """By task, the earlier runs that did it on the same data in full, oldest first.

    Runs whose items were drawn are not among them: the aggregation service finds those itself.
    """
    if not (run.goal.draws and run.goal.uses_history):
        return {}
    # Newest first.
    known = [
        each
        for each in await store.page(size=_RUNS_LOOKED_AT)
        if each.state is RunState.SUCCEEDED and not each.goal.draws and each.create_time < run.create_time
    ]
    return {
        each.task.name: tuple(reversed([one.name for one in known if _has_all_of(one, each)][:_MOST_RUNS]))
        for each in tasks
    }


def _has_all_of(run: Run, each: TaskItems) -> bool:
    return any(
        progress.task == each.task.name
        and progress.data_digest == each.data_digest
        and progress.item_count == progress.scored_count + progress.failed_count
        for progress in run.progress
    )
