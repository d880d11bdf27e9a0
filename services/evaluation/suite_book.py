"""Gives runs their suites and, in the run's seeded order, their items."""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import InvalidItem, Item
from services.evaluation.loading import LoadedTask, load_task, present_tasks
from services.evaluation.runs.task_items import TaskItems
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import not_found


class DataOrder:
    """The items that a run may draw, in the order of the data: the ``Population`` of its task.

    Args:
        loaded: the task with its rows.
        positions: places in the data, ascending.
    """

    def __init__(self, loaded: LoadedTask, positions: Sequence[int]) -> None:
        self._loaded = loaded
        self._positions = positions

    def __len__(self) -> int:
        """How many there are."""
        return len(self._positions)

    def item(self, position: int) -> Item | InvalidItem:
        """Render one."""
        return self._loaded.item(self._positions[position])

    def item_ids(self) -> Iterator[str]:
        """All ids, in order."""
        if len(self._positions) == len(self._loaded):
            return self._loaded.item_ids()
        wanted = set(self._positions)
        return (item_id for position, item_id in enumerate(self._loaded.item_ids()) if position in wanted)


class CatalogBook:
    """The suites of a catalog with the data below some roots."""

    def __init__(self, catalog: Catalog, roots: DataRoots) -> None:
        self._catalog = catalog
        self._roots = roots

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        """The suite with those of its tasks that have data, or only the named tasks and families.

        Raises:
            NotFoundError: unknown suite, or a task that the suite does not have, with the nearest names.
            SpecificationError: a definition is malformed.
            DataNotFoundError: a task has no data.
        """
        found = self._catalog.suite(suite)
        if tasks:
            found = dataclasses.replace(found, tasks=_selected(found, tasks))
        present, _ = await asyncio.to_thread(present_tasks, found.tasks, self._roots)
        return dataclasses.replace(found, tasks=present)

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        """Each task's items in the run's seeded order; see ``load_task`` for the errors."""
        drawn = []
        for task in suite.tasks:
            loaded = await asyncio.to_thread(load_task, task, self._roots)
            items = await asyncio.to_thread(loaded.drawn, seed=seed, limit=limit)
            population = DataOrder(loaded, range(len(loaded)) if len(items) == len(loaded) else sorted(items.indices()))
            drawn.append(TaskItems(task, items, loaded.digest, population))
        return drawn


def _selected(suite: Suite, names: Sequence[str]) -> tuple[Task, ...]:
    for name in names:
        if not any(name in (task.name, task.family) for task in suite.tasks):
            known = {task.name for task in suite.tasks} | {task.family for task in suite.tasks}
            raise not_found(f"task of suite {suite.name}", name, known)
    return tuple(task for task in suite.tasks if task.name in names or task.family in names)
