"""JSONL: one JSON object a line."""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from services.evaluation.data_roots import DataFile
from services.evaluation.readers.raw_rows import MAX_ROW_BYTES, BadRow, RawRow, open_bytes, read_lines
from services.evaluation.source_specification import Source


def read_json_lines(file: DataFile, source: Source) -> Iterator[RawRow | BadRow]:
    """The objects of a JSONL file; lines are split at line feeds only, and empty lines are passed over."""
    with open_bytes(file) as stream:
        for number, line in read_lines(stream):
            if line is None:
                yield BadRow(number, f"the line is longer than {MAX_ROW_BYTES} bytes")
            elif line.strip():
                yield _parse(number, line)


def _parse(number: int, line: bytes) -> RawRow | BadRow:
    try:
        value = parse_json(line)
    except UnicodeDecodeError as error:
        return BadRow(number, f"the line is not UTF-8 (byte {error.start})")
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"the line is no valid JSON: {error}")
    if not isinstance(value, dict):
        return BadRow(number, f"the line holds {type(value).__name__}, not a JSON object")
    return RawRow(number, value)


def parse_json(content: bytes) -> Any:
    """Parse UTF-8 JSON, a byte order mark allowed; NaN and infinities, which JSON does not have, are refused.

    Raises:
        ValueError: no JSON or no UTF-8.
        RecursionError: nested too deeply.
    """
    return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
