"""Reads the rows of a task from the first of its sources that has them, one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from services.evaluation.data_roots import DataFile, DataRoots
from services.evaluation.errors import DataNotFoundError, RenderingError, UnreadableDataError
from services.evaluation.readers import BadRow, RawRow, read_file
from services.evaluation.readers.raw_rows import open_bytes, read_lines
from services.evaluation.rendering import Expression, Renderer
from services.evaluation.source_specification import Source
from services.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class Row:
    """A row with the columns that all sources of its task have in common, constants included."""

    file_name: str
    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row that cannot be used, and why."""

    file_name: str
    number: int
    problem: str
    missing_column: str | None = None

    def __str__(self) -> str:
        """``file row number: problem``."""
        return f"{self.file_name} row {self.number}: {self.problem}"


class DataSet:
    """The data of a task at one of its sources, found but not yet read."""

    def __init__(self, task: Task, source: Source, roots: DataRoots) -> None:
        self._task = task
        self._source = source
        self._roots = roots
        self._renderer = Renderer()
        self._fields = [(name, self._renderer.expression(text)) for name, text in source.fields.items()]

    @classmethod
    def find(cls, task: Task, roots: DataRoots) -> "DataSet":
        """The first source of ``task`` that has files for its split.

        Raises:
            DataNotFoundError: none has; the message says what was looked for and where.
            DataPathError: a path leaves its folder.
        """
        tried: list[str] = []
        for source in task.spec.sources:
            data_set = cls(task, source, roots)
            try:
                if task.spec.split in source.files and data_set.files(task.spec.split):
                    return data_set
                tried.append(data_set.describe(task.spec.split))
            except DataNotFoundError as error:
                tried.append(error.message)
        raise DataNotFoundError(
            f"task {task.name} has no data for its split {task.spec.split!r}. Tried: {'; '.join(tried)}. "
            "Put the files there or point EVALFLEET_DATA_DIR at the folder that has them",
            metadata={"task": task.name, "split": task.spec.split},
        )

    def files(self, split: str) -> tuple[DataFile, ...]:
        """The files of a split; empty if any of its patterns names none."""
        found: list[DataFile] = []
        for pattern in self._patterns(split):
            if self._source.hub is not None:
                files = self._roots.find_on_hub(self._source.hub, pattern)
            else:
                files = self._roots.find(pattern, self._folders)
            if not files:
                return ()
            found.extend(each for each in files if each not in found)
        return tuple(found)

    def describe(self, split: str) -> str:
        """Where a split is looked for, for people."""
        patterns = ", ".join(self._patterns(split)) or f"(split {split!r} is not listed)"
        if self._source.hub is not None:
            return f"{patterns} in the hub data set {self._source.hub.dataset}"
        folders = " or ".join(str(folder) for folder in self._folders)
        return f"{patterns} in {folders or 'EVALFLEET_DATA_DIR, which is not set'}"

    def rows(self, split: str) -> Iterator[Row | InvalidRow]:
        """The rows of a split in the order of its files; read as they are asked for.

        Raises:
            UnreadableDataError: a file as a whole cannot be read, or a file of values has not one line a row.
            MissingColumnError: a header or schema lacks a column.
            DataNotFoundError: the split has no files.
        """
        files = self.files(split)
        if not files:
            raise DataNotFoundError(f"task {self._task.name} has no data: {self.describe(split)}")
        for file in files:
            for raw in self._with_line_files(file, read_file(file, self._source)):
                yield self._restate(file, raw)

    @property
    def _folders(self) -> tuple[Any, ...]:
        return self._roots.folders if self._source.root == "data" else (self._task.bundled_data,)

    def _patterns(self, split: str) -> tuple[str, ...]:
        return tuple(self._path(template) for template in self._source.files.get(split, ()))

    def _path(self, template: str) -> str:
        return self._renderer.template(template).render(self._task.constants)

    def _restate(self, file: DataFile, raw: RawRow | BadRow) -> Row | InvalidRow:
        if isinstance(raw, BadRow):
            return InvalidRow(file.name, raw.number, raw.problem)
        values: dict[str, Any] = {**self._task.constants}
        for name, heading in self._source.columns.items():
            if heading not in raw.values:
                problem = f"the row lacks the column {heading!r}; it has: {', '.join(raw.values) or 'none'}"
                return InvalidRow(file.name, raw.number, problem, missing_column=heading)
            values[name] = raw.values[heading]
        values.update((each.column, raw.values[each.column]) for each in self._source.line_files)
        if self._source.file_column is not None:
            values[self._source.file_column] = PurePosixPath(file.name).name.partition(".")[0]
        try:
            return Row(file.name, raw.number, compute(self._fields, values))
        except RenderingError as error:
            return InvalidRow(file.name, raw.number, error.message)

    def _with_line_files(self, file: DataFile, rows: Iterator[RawRow | BadRow]) -> Iterator[RawRow | BadRow]:
        """Add the columns that are kept in files of their own."""
        columns = {each.column: self._line_values(each.file) for each in self._source.line_files}
        for row in rows:
            extra = {column: next(values, None) for column, values in columns.items()}
            if short := [column for column, value in extra.items() if value is None]:
                raise UnreadableDataError(f"{file.name} has more rows than there are lines for {short[0]!r}")
            yield RawRow(row.number, {**row.values, **extra}) if isinstance(row, RawRow) else row
        for column, values in columns.items():
            if next(values, None) is not None:
                raise UnreadableDataError(f"{file.name} has fewer rows than there are lines for {column!r}")

    def _line_values(self, template: str) -> Iterator[str]:
        pattern = self._path(template)
        if self._source.hub is not None:
            files = self._roots.find_on_hub(self._source.hub, pattern)
        else:
            files = self._roots.find(pattern, self._folders)
        if len(files) != 1:
            raise DataNotFoundError(f"task {self._task.name} needs one file {pattern}; there are {len(files)}")
        with open_bytes(files[0]) as stream:
            for _, line in read_lines(stream):
                try:
                    yield (line or b"").decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise UnreadableDataError(f"{files[0].name} is not UTF-8: {error.reason}") from error


def compute(fields: list[tuple[str, Expression]], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with computed columns added in order; each sees those before it.

    Raises:
        RenderingError: an expression fails on these values.
    """
    result = dict(values)
    for name, expression in fields:
        try:
            result[name] = expression.value(result)
        except RenderingError as error:
            raise RenderingError(f"the column {name!r} cannot be computed: {error.message}") from error
    return result
