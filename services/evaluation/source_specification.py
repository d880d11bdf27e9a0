"""Where the rows of a task are and how they are written there."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, field_validator

from services.evaluation.specification_base import Expression, Identifier, Specification, Template

VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class DataFormat(StrEnum):
    """How a data file is written; ``.gz`` behind the file's suffix means gzip on top."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


class Hub(Specification):
    """A data set on a model hub."""

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")] = Field(
        description="Repository id, e.g. openai/gsm8k."
    )
    revision: Annotated[str, StringConstraints(pattern=r"^[\w][\w./-]*$")] = Field(
        description="Branch, tag or commit; a commit pins the data."
    )


class LineFile(Specification):
    """A column kept in a file of its own, one value a line in the order of the rows."""

    column: Identifier
    file: Template


class Source(Specification):
    """One place where the task's rows may be, and how they are written there."""

    root: Literal["data", "bundled"] = Field(
        default="data",
        description="data: under a folder of EVALFLEET_DATA_DIR; bundled: under suites/data/ beside the definition.",
    )
    hub: Hub | None = Field(default=None, description="If given, the files are in this hub repository.")
    files: dict[Identifier, tuple[Template, ...]] = Field(
        description="Split -> relative paths (globs allowed, templates over constants and variant)."
    )
    columns: dict[Identifier, str] = Field(
        description="Columns every row must have, in order if header is false; `name: heading` where the two differ."
    )
    format: DataFormat | None = Field(default=None, description="Absent: from the file's suffix.")
    header: bool = Field(default=True, description="CSV and TSV: the first line names the columns.")
    quoting: bool = Field(default=True, description="CSV and TSV: fields may be quoted.")
    records: str = Field(default="", description="JSON: dotted path to the list of rows, e.g. examples.")
    line_files: tuple[LineFile, ...] = ()
    file_column: Identifier | None = Field(default=None, description="Adds a column with the file's name, no suffix.")
    fields: dict[Identifier, Expression] = Field(
        default={}, description="Columns that this source computes, in order, so that all sources look alike."
    )

    @field_validator("files", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {split: (paths,) if isinstance(paths, str) else paths for split, paths in value.items()}

    @field_validator("files")
    @classmethod
    def _paths_are_given(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not value or not all(value.values()):
            raise ValueError("name at least one file a split")
        return value

    @field_validator("columns", mode="before")
    @classmethod
    def _a_heading_is_its_name(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a column is named twice")
            return {name: name for name in value}
        return value

    @field_validator("columns")
    @classmethod
    def _columns_are_given(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError("name at least one column")
        return value

    def format_of(self, file_name: str) -> DataFormat | None:
        """The format of ``file_name``; ``None`` if it is neither stated nor told by the suffix."""
        if self.format is not None:
            return self.format
        suffixes = [suffix.lstrip(".").lower() for suffix in PurePosixPath(file_name).suffixes]
        if suffixes and suffixes[-1] == "gz":
            suffixes.pop()
        known = {each.value: each for each in DataFormat}
        return known.get(suffixes[-1]) if suffixes else None

    @property
    def names(self) -> frozenset[str]:
        """Every column that its rows have."""
        extra = {self.file_column} if self.file_column else set()
        return frozenset({*self.columns, *self.fields, *(each.column for each in self.line_files), *extra})


class Variants(Specification):
    """One task a value: ``mmlu`` with the subject ``anatomy`` is the task ``mmlu_anatomy``."""

    field: Identifier = Field(description="Name of the value in templates.")
    values: dict[VariantName, dict[Identifier, JsonValue]] = Field(description="Value -> constants of its own.")

    @field_validator("values", mode="before")
    @classmethod
    def _names_alone_are_enough(cls, value: Any) -> Any:
        if isinstance(value, list):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a variant is named twice")
            return {name: {} for name in value}
        return {name: constants or {} for name, constants in value.items()} if isinstance(value, Mapping) else value

    @field_validator("values")
    @classmethod
    def _values_are_given(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not value:
            raise ValueError("name at least one variant")
        return value
