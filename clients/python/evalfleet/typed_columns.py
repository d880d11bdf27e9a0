"""Columns with types, and the libraries whose tables they become."""

from __future__ import annotations  # the libraries' types are named, and imported by none but their users

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from evalfleet.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

Row: TypeAlias = Mapping[str, object]
"""Values by the name of their column."""

Kind: TypeAlias = Literal["text", "number", "count", "truth", "texts", "moment"]
"""What a column holds; each may be missing."""

_ARROW: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "text": lambda pa: pa.string(),
    "number": lambda pa: pa.float64(),
    "count": lambda pa: pa.int64(),
    "truth": lambda pa: pa.bool_(),
    "texts": lambda pa: pa.list_(pa.string()),
    "moment": lambda pa: pa.timestamp("us", tz="UTC"),
}
_PANDAS: Final[Mapping[Kind, str]] = {
    "text": "string",
    "number": "Float64",
    "count": "Int64",
    "truth": "boolean",
    "texts": "object",
    "moment": "datetime64[us, UTC]",
}
_POLARS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "text": lambda pl: pl.String,
    "number": lambda pl: pl.Float64,
    "count": lambda pl: pl.Int64,
    "truth": lambda pl: pl.Boolean,
    "texts": lambda pl: pl.List(pl.String),
    "moment": lambda pl: pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length.

    Attributes:
        columns: the values by name, ``None`` where there is none.
        kinds: what each column holds.
    """

    columns: Mapping[str, Sequence[object]]
    kinds: Mapping[str, Kind]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with nullable types.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pd = _library("pandas")
        series = {
            name: pd.Series(list(values), dtype=_PANDAS[self.kinds[name]]) for name, values in self.columns.items()
        }
        frame: pandas.DataFrame = pd.DataFrame(series)
        return frame

    def to_polars(self) -> polars.DataFrame:
        """Return a DataFrame.

        Raises:
            MissingExtraError: polars is not installed.
        """
        pl = _library("polars")
        frame: polars.DataFrame = pl.DataFrame(
            {name: list(values) for name, values in self.columns.items()},
            schema={name: _POLARS[self.kinds[name]](pl) for name in self.columns},
        )
        return frame

    def to_arrow(self) -> pyarrow.Table:
        """Return a table of Arrow, which writes Parquet.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        pa = _library("pyarrow")
        arrays = {name: pa.array(values, type=_ARROW[self.kinds[name]](pa)) for name, values in self.columns.items()}
        return pa.table(arrays)


def table_of(kinds: Mapping[str, Kind], rows: Iterable[Row]) -> Table:
    """Turn rows into columns: those of ``kinds``, and of texts or numbers what else the rows have."""
    columns: dict[str, list[object]] = {name: [] for name in kinds}
    found = dict(kinds)
    count = 0
    for count, row in enumerate(rows, start=1):
        for name, value in row.items():
            if name not in columns:
                columns[name] = [None] * (count - 1)
                found[name] = "text" if isinstance(value, str) else "number"
            columns[name].append(value)
        for column in columns.values():
            if len(column) < count:
                column.append(None)
    return Table(columns, found)


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            f"{name} is not installed: pip install {name}, or 'evalfleet[frames]' for all three kinds of tables",
            reason="LIBRARY_MISSING",
            metadata={"library": name},
        ) from None
