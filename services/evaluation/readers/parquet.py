"""Parquet, through pyarrow, which is imported when the first such file is read."""

import datetime
import decimal
from collections.abc import Iterator
from typing import Any

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import INSTALL_HINT, UnreadableDataError
from services.evaluation.readers.raw_rows import BadRow, RawRow, require_columns
from services.evaluation.source_specification import Source

_BATCH_ROWS = 256


def read_parquet(file: DataFile, source: Source) -> Iterator[RawRow | BadRow]:
    """The rows of a Parquet file, a few hundred at a time, with only the columns that ``source`` names."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UnreadableDataError(f"{file.name} needs pyarrow: {INSTALL_HINT} ({error})") from error
    number = 0
    try:
        with parquet.ParquetFile(file.path) as opened:
            require_columns(file, source, opened.schema_arrow.names)
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS, columns=list(source.columns.values())):
                for values in batch.to_pylist():
                    number += 1
                    yield _row(number, values)
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableDataError(f"{file.name} is no readable Parquet file: {error}") from error


def _row(number: int, values: dict[str, Any]) -> RawRow | BadRow:
    try:
        return RawRow(number, {name: _plain(value) for name, value in values.items()})
    except TypeError as error:
        return BadRow(number, str(error))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise TypeError(f"a column holds {type(value).__name__}, which cannot be text in a prompt")
