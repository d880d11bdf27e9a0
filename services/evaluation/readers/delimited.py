"""CSV and TSV, with or without header and quoting."""

import csv
import io
from collections.abc import Iterator

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import UnreadableDataError
from services.evaluation.readers.raw_rows import MAX_ROW_BYTES, BadRow, RawRow, open_bytes, require_columns
from services.evaluation.source_specification import DataFormat, Source


def read_delimited(file: DataFile, source: Source) -> Iterator[RawRow | BadRow]:
    """The rows of a CSV or TSV file; a byte order mark is dropped, line breaks inside quoted fields stay."""
    # The limit is the process's; it only ever grows from its default of 128 KiB to this constant.
    csv.field_size_limit(MAX_ROW_BYTES)
    with open_bytes(file) as stream:
        records = csv.reader(
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""),
            delimiter="\t" if source.format_of(file.name) is DataFormat.TSV else ",",
            quoting=csv.QUOTE_MINIMAL if source.quoting else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            names = _header(file, source, records)
            yield from _rows(names, records)
        except UnicodeDecodeError as error:
            raise UnreadableDataError(f"{file.name} is not UTF-8: {error.reason}") from error


def _header(file: DataFile, source: Source, records: Iterator[list[str]]) -> list[str]:
    if not source.header:
        return list(source.columns.values())
    try:
        names = next((record for record in records if record), [])
    except csv.Error as error:
        raise UnreadableDataError(f"{file.name}: the header cannot be read: {error}") from error
    if names:
        require_columns(file, source, names)
    return names


def _rows(names: list[str], records: Iterator[list[str]]) -> Iterator[RawRow | BadRow]:
    number = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            yield BadRow(number, f"the row cannot be read: {error}")
            continue
        if not record:
            continue
        number += 1
        if len(record) == len(names):
            yield RawRow(number, dict(zip(names, record, strict=True)))
        else:
            yield BadRow(number, f"the row has {len(record)} fields instead of {len(names)} ({', '.join(names)})")
