"""The tasks of a run with their items, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.drawings import Population
from services.evaluation.runs.peers import Generator
from services.evaluation.runs.record import Run
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.tiers import suite_for
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class TaskItems:
    """A task and its items in the order in which this run draws them, already cut to the run's limit.

    ``data_digest`` covers definition and rows; a run does not go on with other data than it began with. ``population``
    has the same items in the order of the data, for tasks whose items are drawn by the aggregation service.
    """

    task: Task
    items: Sequence[Item | InvalidItem]
    data_digest: str
    population: Population | None = None


class SuiteBook(Protocol):
    """Where runs get their suites and items from."""

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        """The suite, or only some of its tasks; raises NotFoundError with the nearest names."""
        ...

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        """Each task's items in the run's seeded order; raises typed errors for data that cannot be used."""
        ...


async def tasks_of(
    run: Run, suites: SuiteBook, generator: Generator, *, patience_seconds: float
) -> Sequence[TaskItems]:
    """A run's tasks with their items.

    Raises:
        FailedPreconditionError: SUITE_CHANGED, MODEL_CHANGED: they are not what the run began with.
    """
    suite = suite_for(run.goal, await suites.resolve(run.suite, run.tasks))
    if suite.digest != run.suite_digest:
        raise FailedPreconditionError(
            f"suite {run.suite!r} was changed while the run was in progress; start a new run",
            reason="SUITE_CHANGED",
            metadata={"suite": run.suite, "expected_digest": run.suite_digest, "found_digest": suite.digest},
        )
    digest = await wait_out(partial(generator.model_digest, run.model), patience_seconds=patience_seconds)
    if digest != run.model_digest:
        raise FailedPreconditionError(
            f"{run.model} was replaced while the run was in progress; start a new run",
            reason="MODEL_CHANGED",
            metadata={"model": run.model, "expected_digest": run.model_digest, "found_digest": digest},
        )
    return await suites.draw(suite, seed=run.seed, limit=run.item_limit)
