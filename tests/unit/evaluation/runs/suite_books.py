"""Suites whose items are given, as tests of runs make them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.task_items import TaskItems
from services.evaluation.tasks import Suite
from services.runtime.errors import not_found


class ListedItems:
    """A population that is a list."""

    def __init__(self, items: Sequence[Item | InvalidItem]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def item(self, position: int) -> Item | InvalidItem:
        return self.items[position]

    def item_ids(self) -> Iterator[str]:
        return (each.item_id for each in self.items)


class Book:
    """A suite book with one suite whose items are given.

    Attributes:
        can_draw: whether items may be drawn one by one.
        error: what is raised instead of giving items.
        draws: seed and limit of each call for items.
    """

    def __init__(
        self, suite: Suite, items: Sequence[Any], data_digest: str = "rows-1", *, can_draw: bool = False
    ) -> None:
        self.suite = suite
        self.items = items
        self.data_digest = data_digest
        self.can_draw = can_draw
        self.error: Exception | None = None
        self.draws: list[tuple[int, int | None]] = []

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        if suite != self.suite.name:
            raise not_found("suite", suite, [self.suite.name])
        found = tuple(each for each in self.suite.tasks if not tasks or each.name in tasks)
        if not found:
            raise not_found("task", tasks[0], [each.name for each in self.suite.tasks])
        return dataclasses.replace(self.suite, tasks=found)

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        if self.error is not None:
            raise self.error
        self.draws.append((seed, limit))
        items = self.items[:limit]
        population = ListedItems(items) if self.can_draw else None
        return [TaskItems(task, items, self.data_digest, population) for task in suite.tasks]


def some_items(make_item: Any, count: int, right: float, task: str = "shout") -> list[Item]:
    """Items of which the share ``right`` is answered rightly."""
    items = [make_item(f"{task} {index}", task=task) for index in range(count)]
    for index, each in enumerate(items):
        if index % 100 >= 100 * right:
            items[index] = dataclasses.replace(each, targets=("something else",))
    return items
