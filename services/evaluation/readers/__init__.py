"""Data file formats: one reader each, behind one function."""

from collections.abc import Iterator

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import UnreadableDataError
from services.evaluation.readers.delimited import read_delimited
from services.evaluation.readers.json_document import read_json_document
from services.evaluation.readers.json_lines import read_json_lines
from services.evaluation.readers.parquet import read_parquet
from services.evaluation.readers.raw_rows import BadRow, RawRow
from services.evaluation.source_specification import DataFormat, Source

__all__ = ["BadRow", "RawRow", "read_file"]

_READERS = {
    DataFormat.JSONL: read_json_lines,
    DataFormat.JSON: read_json_document,
    DataFormat.CSV: read_delimited,
    DataFormat.TSV: read_delimited,
    DataFormat.PARQUET: read_parquet,
}


def read_file(file: DataFile, source: Source) -> Iterator[RawRow | BadRow]:
    """The rows of a file, read as they are asked for.

    Raises:
        UnreadableDataError: the file as a whole is not what its format promises.
        MissingColumnError: its header or schema lacks a column that ``source`` names.
    """
    data_format = source.format_of(file.name)
    if data_format is None:
        formats = ", ".join(DataFormat)
        raise UnreadableDataError(f"{file.name}: the suffix tells no format; add `format:`, one of {formats}")
    return _READERS[data_format](file, source)
