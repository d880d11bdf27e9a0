"""From a task to its items: reads all rows once, into a file, then renders an item when it is asked for."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import overload

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
from services.evaluation.row_file import Entry, OrderedRows, RowFile
from services.evaluation.tasks import Task, canonical_digest, draw_rank
from services.evaluation.templates import TaskTemplates


class LoadedTask:
    """A task with its rows, which are in a file. Immutable; the same index is always the same item.

    Attributes:
        task: the task.
        digest: SHA-256 (hex) over the definition, the few-shot examples as rendered and all rows.
    """

    def __init__(self, task: Task, rows: RowFile, renderer: ItemRenderer) -> None:
        self.task = task
        self._rows = rows
        self._renderer = renderer
        self.digest = rows.digest(task.digest, renderer.examples_digest)

    def __len__(self) -> int:
        """Number of items, invalid ones included."""
        return len(self._rows)

    def item_ids(self) -> Iterator[str]:
        """Ids of all items in the order of the data."""
        return self._rows.item_ids()

    def item(self, index: int) -> Item | InvalidItem:
        """Render one item; a row on which a template fails is an InvalidItem."""
        return self.rendered(self._rows.entry(index))

    def rendered(self, entry: Entry) -> Item | InvalidItem:
        """Render the item of a row."""
        item_id, row = entry
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

    def drawn(self, *, seed: int, limit: int | None = None) -> "DrawnItems":
        """The items to evaluate, in order: the seeded permutation, cut at the smaller of both limits.

        See ``draw_order`` in tasks.py, which says what the order is.
        """
        limits = [each for each in (limit, self.task.limit) if each is not None]
        rank = partial(draw_rank, seed=seed, task=self.task.name)
        return DrawnItems(self, self._rows.ordered(rank, min(limits) if limits else None))

    def draw_order(self, *, seed: int, limit: int | None = None) -> tuple[int, ...]:
        """Indices of the drawn items; for data sets that are small enough to hold one number an item."""
        return self.drawn(seed=seed, limit=limit).indices()


class DrawnItems(Sequence[Item | InvalidItem]):
    """A task's items in draw order, each read and rendered when it is asked for."""

    def __init__(self, loaded: LoadedTask, rows: OrderedRows) -> None:
        self._loaded = loaded
        self._rows = rows

    def __len__(self) -> int:
        """How many items the run draws."""
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item | InvalidItem: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item | InvalidItem]: ...

    def __getitem__(self, index: int | slice) -> Item | InvalidItem | Sequence[Item | InvalidItem]:
        """The item drawn at ``index``; a slice is a list."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self._loaded.rendered(self._rows.entry(index + len(self) if index < 0 else index))

    def item_ids(self) -> Iterator[str]:
        """Ids of the items in draw order, without rendering them."""
        return self._rows.item_ids()

    def indices(self) -> tuple[int, ...]:
        """Where the items are in the data."""
        return self._rows.positions()


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
    usability = _Usability(task)
    rows = RowFile(usability.watch(_identified(_selected(task, data_set, templates), task, templates)))
    usability.check()
    return LoadedTask(task, rows, ItemRenderer(task, templates, _examples(task, data_set, templates)))


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


def _identified(rows: Iterable[Row | InvalidRow], task: Task, templates: TaskTemplates) -> Iterator[Entry]:
    """Give every row its id; rows of equal id are told apart later, by ``RowFile``."""
    for each in rows:
        row = each
        try:
            item_id = _item_id(row, task, templates)
        except RenderingError as error:
            row = InvalidRow(row.file_name, row.number, f"`item_id` fails: {error.message}")
            item_id = _item_id(row, task, templates)
        yield item_id, row


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


class _Usability:
    """Finds out, while rows pass by, whether any of them can be used."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._count = 0
        self._invalid_count = 0
        self._first_invalid: InvalidRow | None = None
        self._missing_columns: set[str | None] = set()

    def watch(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Pass the rows on."""
        for entry in entries:
            row = entry[1]
            self._count += 1
            if isinstance(row, InvalidRow):
                self._invalid_count += 1
                self._first_invalid = self._first_invalid or row
                self._missing_columns.add(row.missing_column)
            yield entry

    def check(self) -> None:
        """Raise EmptyDataError, MissingColumnError or UnreadableDataError if no row can be used."""
        if not self._count:
            raise EmptyDataError(f"the filter of task {self._task.name} keeps no row: where: {self._task.spec.where}")
        if self._invalid_count < self._count:
            return
        if len(self._missing_columns) == 1 and (column := self._missing_columns.pop()) is not None:
            raise MissingColumnError(
                f"every row of task {self._task.name} lacks the column {column!r}; the first: {self._first_invalid}",
                metadata={"task": self._task.name, "column": column},
            )
        raise UnreadableDataError(f"no row of task {self._task.name} can be used; the first: {self._first_invalid}")
