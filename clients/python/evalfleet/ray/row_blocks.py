"""A job's pieces, and the rows that are read of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from evalfleet.ray.row_outcomes import Row

BLOCK_ROWS = 1024
"""Rows that are read, and written, at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a file: rows of a Parquet file, or the JSON lines that begin within a range of bytes.

    Attributes:
        number: from 0, in the order of the input.
        uri: the file.
        begin: first row, or byte.
        end: behind the last one; -1: the rest of the file.
    """

    number: int
    uri: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Some rows of a piece: what is kept of them, where each begins in its file, and what is read of them."""

    kept: pa.Table
    positions: list[int]
    rows: list[Row]


def table_rows(table: pa.Table, present: Mapping[str, str]) -> list[Row]:
    """Return what is read of each row of a table; ``present`` names columns that it has."""
    values = {name: table.column(column).to_pylist() for name, column in present.items()}
    return [{name: column[index] for name, column in values.items()} for index in range(table.num_rows)]
