"""What readers yield, and how they open files."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from services.evaluation.data_roots import DataFile
from services.evaluation.errors import MissingColumnError, UnreadableDataError
from services.evaluation.source_specification import Source
from services.runtime.names import nearest_names

MAX_ROW_BYTES = 16 << 20
"""Longest line, and longest CSV field; whatever is longer is a bad row."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as its file has it; ``number`` from 1: the line of a JSONL file, elsewhere the data row."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be parsed, and why."""

    number: int
    problem: str


@contextmanager
def open_bytes(file: DataFile) -> Iterator[IO[bytes]]:
    """Open a file for reading; ``.gz`` is unpacked on the way.

    Raises:
        UnreadableDataError: it cannot be opened, or the archive turns out broken while it is read.
    """
    try:
        with ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(file.path.open("rb"))
            if file.name.endswith(".gz"):
                stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableDataError(f"{file.name} cannot be read: {error}") from error


def read_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    r"""Lines with their numbers from 1, split at ``\n`` only; ``None`` for a line longer than MAX_ROW_BYTES."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) <= MAX_ROW_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_ROW_BYTES)
        yield number, None


def require_columns(file: DataFile, source: Source, found: list[str]) -> None:
    """Check a header or schema.

    Raises:
        MissingColumnError: it lacks a column that ``source`` names.
    """
    for column in source.columns.values():
        if column not in found:
            near = nearest_names(column, found)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(found)}"
            raise MissingColumnError(
                f"{file.name} has no column {column!r}; {hint}", metadata={"file": file.name, "column": column}
            )
