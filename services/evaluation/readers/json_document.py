"""JSON: one document that holds a list of rows somewhere."""

from collections.abc import Iterator

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import UnreadableDataError
from services.evaluation.readers.json_lines import parse_json
from services.evaluation.readers.raw_rows import BadRow, RawRow, open_bytes
from services.evaluation.source_specification import Source

MAX_DOCUMENT_BYTES = 512 << 20


def read_json_document(file: DataFile, source: Source) -> Iterator[RawRow | BadRow]:
    """The objects in the list at ``source.records``; the document is held in memory while they are read."""
    with open_bytes(file) as stream:
        content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UnreadableDataError(f"{file.name} is larger than {MAX_DOCUMENT_BYTES} bytes; convert it to JSONL")
    try:
        value = parse_json(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableDataError(f"{file.name} is no valid JSON: {error}") from error
    del content
    for key in source.records.split(".") if source.records else ():
        if not isinstance(value, dict) or key not in value:
            raise UnreadableDataError(f"{file.name} has no {source.records!r}; correct `records:`")
        value = value[key]
    if not isinstance(value, list):
        where = repr(source.records) if source.records else "the document"
        raise UnreadableDataError(f"{file.name}: {where} is no list of rows; correct `records:`")
    for number, row in enumerate(value, start=1):
        if isinstance(row, dict):
            yield RawRow(number, row)
        else:
            yield BadRow(number, f"the row is {type(row).__name__}, not a JSON object")
