"""A job in pieces: ranges of the input's files, the same ones whenever the same job is laid out again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evalfleet.errors import InvalidArgumentError
from evalfleet.ray.parquet_rows import ParquetRows
from evalfleet.ray.row_blocks import BLOCK_ROWS, Piece, RowBlock
from evalfleet.ray.row_outcomes import Row
from evalfleet.ray.sources import SourceFile, open_filesystem

LINE_COLUMN = "row"
"""Column of the output that holds a line of JSON as it was, unless columns of it are named."""
_CHUNK_BYTES = 1 << 20
_MOST_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How an input is cut, and what of it is kept beside the answers.

    Attributes:
        piece_rows: rows of a Parquet piece.
        piece_bytes: bytes of a piece of JSON lines; a compressed file is one piece.
        keep: columns; none: all of Parquet, and of JSON lines the whole line as ``row``.
    """

    piece_rows: int = 4096
    piece_bytes: int = 4 << 20
    keep: tuple[str, ...] = ()


def cut(files: Sequence[SourceFile], layout: Layout) -> list[Piece]:
    """Cut files into pieces; of Parquet the footers are read, of JSON lines nothing."""
    ranges: list[tuple[str, int, int]] = []
    for file in files:
        if file.is_parquet:
            filesystem, path = open_filesystem(file.uri)
            with filesystem.open_input_file(path) as source:
                count = pq.ParquetFile(source).metadata.num_rows
            ranges += [
                (file.uri, begin, min(begin + layout.piece_rows, count)) for begin in range(0, count, layout.piece_rows)
            ]
        elif file.is_compressed:
            ranges.append((file.uri, 0, -1))
        else:
            ranges += [
                (file.uri, begin, min(begin + layout.piece_bytes, file.size_bytes))
                for begin in range(0, file.size_bytes, layout.piece_bytes)
            ]
    return [Piece(number, *each) for number, each in enumerate(ranges)]


def kept_schema(files: Sequence[SourceFile], layout: Layout) -> pa.Schema:
    """Return the columns that are kept of every file.

    Raises:
        InvalidArgumentError: Parquet files differ in them or lack one, or they lie beside JSON lines.
    """
    parquet = [each for each in files if each.is_parquet]
    if not parquet:
        return pa.schema([(each, pa.string()) for each in layout.keep or (LINE_COLUMN,)])
    if len(parquet) < len(files):
        raise InvalidArgumentError("give Parquet or JSON lines, not both at once", reason="FORMATS_MIXED")
    first: pa.Schema | None = None
    for file in parquet:
        filesystem, path = open_filesystem(file.uri)
        with filesystem.open_input_file(path) as source:
            schema = pq.read_schema(source).remove_metadata()
        if missing := sorted(set(layout.keep) - set(schema.names)):
            raise InvalidArgumentError(f"{file.uri} has no column {missing[0]!r}", reason="COLUMN_UNKNOWN")
        kept = pa.schema([schema.field(name) for name in layout.keep or schema.names])
        if first is not None and kept != first:
            raise InvalidArgumentError(
                f"{file.uri} has other columns than {parquet[0].uri}: name with --keep those that are alike",
                reason="COLUMNS_DIFFER",
            )
        first = kept
    return first


def read_blocks(piece: Piece, kept: pa.Schema, inputs: Mapping[str, str], parquet: ParquetRows) -> Iterator[RowBlock]:
    """Yield a piece's rows in their order.

    Args:
        piece: what to read.
        kept: columns of the output that come from the input.
        inputs: what is read of a row → the column that holds it.
        parquet: reads Parquet files for this caller, who gives it one piece after the other.
    """
    is_parquet = piece.uri.endswith(".parquet")
    yield from parquet.blocks(piece, kept, inputs) if is_parquet else _line_blocks(piece, kept, inputs)


def _line_blocks(piece: Piece, kept: pa.Schema, inputs: Mapping[str, str]) -> Iterator[RowBlock]:
    kept_rows: list[dict[str, str | None]] = []
    positions: list[int] = []
    rows: list[Row] = []
    for position, line in _lines(piece):
        text = line.decode("utf-8", "replace").rstrip("\r")
        try:
            content = _content(text)
            rows.append({name: content.get(column) for name, column in inputs.items()})
        except (ValueError, RecursionError) as error:
            content = {}
            rows.append(InvalidArgumentError(f"the line is no row: {error}", reason="LINE_INVALID"))
        kept_rows.append(_kept(text, content, kept))
        positions.append(position)
        if len(rows) == BLOCK_ROWS:
            yield RowBlock(pa.Table.from_pylist(kept_rows, schema=kept), positions, rows)
            kept_rows, positions, rows = [], [], []
    if rows:
        yield RowBlock(pa.Table.from_pylist(kept_rows, schema=kept), positions, rows)


def _content(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it must be an object")
    return content


def _kept(text: str, content: Mapping[str, Any], kept: pa.Schema) -> dict[str, str | None]:
    """Return the kept columns of a line, all as text: the same ones whatever the line has."""
    if kept.names == [LINE_COLUMN] and LINE_COLUMN not in content:
        return {LINE_COLUMN: text}
    return {name: _as_text(content.get(name)) for name in kept.names}


def _as_text(value: object) -> str | None:
    """Return a value as a text that a column can hold: JSON may escape half a character, which no UTF-8 has."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def _lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield (byte at which it begins, line) of the lines that begin in the piece and are not blank."""
    filesystem, path = open_filesystem(piece.uri)
    if piece.end < 0:
        with filesystem.open_input_stream(path, compression="detect") as stream:
            yield from ((at, line) for at, line in _split(stream, 0) if line.strip())
        return
    with filesystem.open_input_file(path) as file:
        # The line that the piece begins in belongs to the piece before, unless it begins just here.
        begin = max(piece.begin - 1, 0)
        file.seek(begin)
        for at, line in _split(file, begin):
            if at >= piece.end:
                return
            if at >= piece.begin and line.strip():
                yield at, line


def _split(stream: Any, position: int) -> Iterator[tuple[int, bytes]]:
    """Yield (where it begins, line) of a stream of bytes that begins at ``position``.

    Raises:
        InvalidArgumentError: a line is longer than 64 MiB.
    """
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield position, line
            position += len(line) + 1
        if len(rest) > _MOST_LINE_BYTES:
            raise InvalidArgumentError(f"the line at byte {position} is longer than 64 MiB", reason="LINE_TOO_LONG")
    if rest:
        yield position, rest
