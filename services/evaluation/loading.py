"""From a task to its items: reads all rows once, then renders an item when it is asked for."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from services.evaluation.data_roots import DataRoots
from services.evaluation.datasets import DataSet, InvalidRow, Row, compute
from services.evaluation.errors import (
    DataNotFoundError,
    EmptyDataError,
    MissingColumnError,
    RenderingError,
    UnreadableDataError,
)
from services.evaluation.item_rendering import ItemRenderer
from services.evaluation.items import InvalidItem, Item
from services.evaluation.tasks import Task, canonical_digest, draw_order
from services.evaluation.templates import TaskTemplates

_Entry = tuple[str, Row | InvalidRow]


class LoadedTask:
    """A task with its rows. Immutable; the same index is always the same item.

    Attributes:
        task: the task.
        item_ids: ids of all items in the order of the data.
        digest: SHA-256 (hex) over the definition, the few-shot examples as rendered and all rows.
    """

    def __init__(self, task: Task, entries: Iterable[_Entry], renderer: ItemRenderer) -> None:
        self.task = task
        self._entries = tuple(entries)
        self._renderer = renderer
        self.item_ids = tuple(item_id for item_id, _ in self._entries)
        content = [task.digest, renderer.examples_digest, *(_row_digest(row) for _, row in self._entries)]
        self.digest = canonical_digest(content)

    def __len__(self) -> int:
        """Number of items, invalid ones included."""
        return len(self._entries)

    def item(self, index: int) -> Item | InvalidItem:
        """Render one item; a row on which a template fails is an InvalidItem."""
        item_id, row = self._entries[index]
        if isinstance(row, InvalidRow):
            return InvalidItem(item_id, self.task.name, row.file_name, row.number, str(row))
        try:
            return self._renderer.item(item_id, row)
        except RenderingError as error:
            invalid = InvalidRow(row.file_name, row.number, error.message)
            return InvalidItem(item_id, self.task.name, row.file_name, row.number, str(invalid))

    def items(self) -> Iterator[Item | InvalidItem]:
        """All items in the order of the data, rendered as they are asked for."""
        return (self.item(index) for index in range(len(self)))

    def draw_order(self, *, seed: int, limit: int | None = None) -> tuple[int, ...]:
        """Indices of the items to evaluate, in order: the seeded permutation, cut at the smaller of both limits."""
        order = draw_order(self.item_ids, seed=seed, task=self.task.name)
        limits = [each for each in (limit, self.task.limit) if each is not None]
        return order[: min(limits)] if limits else order


def load_task(task: Task, roots: DataRoots) -> LoadedTask:
    """Find and read the data of ``task``. Blocks on files and perhaps on a hub: run it in an executor.

    Raises:
        DataNotFoundError: no source has the data.
        DataPathError: a path of the task leaves its folder.
        UnreadableDataError: a file as a whole cannot be read, or none of its rows can.
        MissingColumnError: a header, or every single row, lacks a column.
        EmptyDataError: there are no rows, or ``where`` keeps none.
    """
    data_set = DataSet.find(task, roots)
    templates = TaskTemplates.compile(task)
    entries = list(_identified(_selected(task, data_set, templates), task, templates))
    _check_usable(task, entries)
    return LoadedTask(task, entries, ItemRenderer(task, templates, _examples(task, data_set, templates)))


def load_items(task: Task, roots: DataRoots) -> Iterator[Item | InvalidItem]:
    """All items of ``task`` in the order of its data; see ``load_task``."""
    return load_task(task, roots).items()


def present_tasks(tasks: Iterable[Task], roots: DataRoots) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Split ``tasks`` into those to run and those left out because a family was named and this variant has no data.

    Where a family has any local file, its local variants are meant; the hub is asked only if there is none.

    Raises:
        DataNotFoundError: a task that was named itself has no data, or no variant of a family has.
    """
    wanted = tuple(tasks)
    local = dataclasses.replace(roots, hub=None)
    local_families = {task.family for task in wanted if task.from_family and _find_error(task, local) is None}
    present: list[Task] = []
    missing: list[tuple[Task, DataNotFoundError]] = []
    for task in wanted:
        error = _find_error(task, local if task.family in local_families else roots)
        if error is None:
            present.append(task)
        elif task.from_family:
            missing.append((task, error))
        else:
            raise error
    families = {task.family for task in present}
    for task, reason in missing:
        if task.family not in families:
            raise reason
    return tuple(present), tuple(task for task, _ in missing)


def _find_error(task: Task, roots: DataRoots) -> DataNotFoundError | None:
    try:
        DataSet.find(task, roots)
    except DataNotFoundError as error:
        return error
    return None


def _selected(task: Task, data_set: DataSet, templates: TaskTemplates) -> Iterator[Row | InvalidRow]:
    """Rows with the task's own columns, without those that ``where`` leaves out."""
    seen = False
    for row in data_set.rows(task.spec.split):
        seen = True
        complete = _completed(row, templates)
        if isinstance(complete, Row) and templates.where is not None:
            try:
                if not templates.where.value(complete.values):
                    continue
            except RenderingError as error:
                complete = InvalidRow(row.file_name, row.number, f"`where` fails: {error.message}")
        yield complete
    if not seen:
        raise EmptyDataError(f"the data of task {task.name} has no rows: {data_set.describe(task.spec.split)}")


def _completed(row: Row | InvalidRow, templates: TaskTemplates) -> Row | InvalidRow:
    if isinstance(row, InvalidRow):
        return row
    try:
        return Row(row.file_name, row.number, compute(list(templates.fields), row.values))
    except RenderingError as error:
        return InvalidRow(row.file_name, row.number, error.message)


def _examples(task: Task, data_set: DataSet, templates: TaskTemplates) -> list[Row]:
    """The rows that few-shot examples are made of; one more than needed where an item may be its own example."""
    few_shot = task.spec.few_shot
    if few_shot is None or few_shot.count == 0:
        return []
    rows: Iterator[Row | InvalidRow]
    if few_shot.examples is not None:
        given = few_shot.examples[: few_shot.count]
        rows = (Row("few_shot", number, {**task.constants, **row}) for number, row in enumerate(given, start=1))
    else:
        assert few_shot.split is not None
        spare = 1 if few_shot.split == task.spec.split else 0
        rows = itertools.islice(data_set.rows(few_shot.split), few_shot.count + spare)
    result: list[Row] = []
    for row in rows:
        complete = _completed(row, templates)
        if isinstance(complete, InvalidRow):
            raise UnreadableDataError(f"a few-shot example of task {task.name} cannot be used: {complete}")
        result.append(complete)
    if len(result) < few_shot.count:
        raise EmptyDataError(f"task {task.name} needs {few_shot.count} few-shot examples; there are {len(result)}")
    return result


def _identified(rows: Iterable[Row | InvalidRow], task: Task, templates: TaskTemplates) -> Iterator[_Entry]:
    """Give every row its id; rows of equal id are told apart by ``#2``, ``#3`` … in the order of the data."""
    seen: Counter[str] = Counter()
    for each in rows:
        row = each
        try:
            item_id = _item_id(row, task, templates)
        except RenderingError as error:
            row = InvalidRow(row.file_name, row.number, f"`item_id` fails: {error.message}")
            item_id = _item_id(row, task, templates)
        seen[item_id] += 1
        yield (item_id if seen[item_id] == 1 else f"{item_id}#{seen[item_id]}"), row


def _item_id(row: Row | InvalidRow, task: Task, templates: TaskTemplates) -> str:
    if isinstance(row, InvalidRow):
        return f"row-{_short_digest([row.file_name, row.number])}"
    if templates.item_id is None:
        return _short_digest({name: value for name, value in row.values.items() if name not in task.constants})
    value = templates.item_id.value(row.values)
    text = str(value)
    return text if isinstance(value, str | int) and _is_plain_id(text) else _short_digest(value)


def _is_plain_id(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._:/-]{1,100}", text) is not None


def _short_digest(content: object) -> str:
    return canonical_digest(content)[:20]


def _row_digest(row: Row | InvalidRow) -> str:
    values: Mapping[str, Any] | str = row.values if isinstance(row, Row) else row.problem
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("ascii")).hexdigest()


def _check_usable(task: Task, entries: list[_Entry]) -> None:
    if not entries:
        raise EmptyDataError(f"the filter of task {task.name} keeps no row: where: {task.spec.where}")
    invalid = [row for _, row in entries if isinstance(row, InvalidRow)]
    if len(invalid) < len(entries):
        return
    columns = {row.missing_column for row in invalid}
    if len(columns) == 1 and (column := columns.pop()) is not None:
        raise MissingColumnError(
            f"every row of task {task.name} lacks the column {column!r}; the first: {invalid[0]}",
            metadata={"task": task.name, "column": column},
        )
    raise UnreadableDataError(f"no row of task {task.name} can be used; the first: {invalid[0]}")
