"""Gives runs their suites and, in the run's seeded order, their items."""

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from typing import overload

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import InvalidItem, Item
from services.evaluation.loading import LoadedTask, load_task, present_tasks
from services.evaluation.runs.executor import TaskItems
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import not_found


class DrawnItems(Sequence[Item | InvalidItem]):
    """A task's items in draw order, each rendered when it is asked for."""

    def __init__(self, loaded: LoadedTask, order: Sequence[int]) -> None:
        self._loaded = loaded
        self._order = order

    def __len__(self) -> int:
        """How many items the run draws."""
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Item | InvalidItem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item | InvalidItem]: ...

    def __getitem__(self, index: int | slice) -> Item | InvalidItem | Sequence[Item | InvalidItem]:
        """The item drawn at ``index``."""
        if isinstance(index, slice):
            return DrawnItems(self._loaded, self._order[index])
        return self._loaded.item(self._order[index])


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
        return (self._loaded.item_ids[position] for position in self._positions)


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
            order = loaded.draw_order(seed=seed, limit=limit)
            population = DataOrder(loaded, range(len(loaded)) if len(order) == len(loaded) else sorted(order))
            drawn.append(TaskItems(task, DrawnItems(loaded, order), loaded.digest, population))
        return drawn


def _selected(suite: Suite, names: Sequence[str]) -> tuple[Task, ...]:
    for name in names:
        if not any(name in (task.name, task.family) for task in suite.tasks):
            known = {task.name for task in suite.tasks} | {task.family for task in suite.tasks}
            raise not_found(f"task of suite {suite.name}", name, known)
    return tuple(task for task in suite.tasks if task.name in names or task.family in names)
