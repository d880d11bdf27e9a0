"""Pieces of Parquet files, read by one who gets several of them: what is decoded for one is not decoded again."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evalfleet.ray.row_blocks import BLOCK_ROWS, Piece, RowBlock, table_rows
from evalfleet.ray.sources import open_filesystem


class ParquetRows:
    """Reads pieces, for one thread at a time, and stays where it stopped.

    A row group cannot be entered in the middle: whoever reads a piece of it decodes what comes before. Pieces that come
    in their order, as Ray hands them out, go on from there, so that each group is decoded once and not once a piece.
    """

    def __init__(self) -> None:
        self._group: _Group | None = None

    def blocks(self, piece: Piece, kept: pa.Schema, inputs: Mapping[str, str]) -> Iterator[RowBlock]:
        """Yield the rows of a piece; the arguments are those of ``pieces.read_blocks``."""
        filesystem, path = open_filesystem(piece.uri)
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            present = {name: column for name, column in inputs.items() if column in file.schema_arrow.names}
            counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        columns = sorted({*kept.names, *present.values()})
        begin = 0
        for number, count in enumerate(counts):
            if begin < piece.end and begin + count > piece.begin:
                group = self._opened(piece.uri, number, columns, begin, max(begin, piece.begin))
                for position, batch in group.batches(max(begin, piece.begin)):
                    first, last = max(piece.begin - position, 0), min(piece.end - position, batch.num_rows)
                    table = pa.Table.from_batches([batch.slice(first, last - first)])
                    yield _block(table, position + first, kept, present)
                    if position + batch.num_rows >= piece.end:
                        return
            begin += count

    def close(self) -> None:
        """Close the file; the next piece opens it again."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _opened(self, uri: str, number: int, columns: list[str], begin: int, position: int) -> "_Group":
        """Return the group where it stopped, if that is not behind ``position``, or from its beginning."""
        group = self._group
        if group is None or group.key != (uri, number, columns) or group.position > position:
            self.close()
            self._group = group = _Group(uri, number, columns, begin)
        return group


class _Group:
    """A row group that is read from its beginning to its end.

    Attributes:
        key: which one, and which columns of it.
        position: row of the file with which the latest batch begins.
    """

    def __init__(self, uri: str, number: int, columns: list[str], begin: int) -> None:
        filesystem, path = open_filesystem(uri)
        self.key = (uri, number, columns)
        self.position = begin
        self._latest: Any = None
        self._source = filesystem.open_input_file(path)
        self._batches = pq.ParquetFile(self._source).iter_batches(BLOCK_ROWS, row_groups=[number], columns=columns)

    def batches(self, from_row: int) -> Iterator[tuple[int, Any]]:
        """Yield (first row, batch) of those that end behind a row, the latest one again if it does."""
        if self._latest is not None and self.position + self._latest.num_rows > from_row:
            yield self.position, self._latest
        for batch in self._batches:
            self.position += 0 if self._latest is None else self._latest.num_rows
            self._latest = batch
            if self.position + batch.num_rows > from_row:
                yield self.position, batch

    def close(self) -> None:
        self._source.close()


def _block(table: pa.Table, position: int, kept: pa.Schema, present: Mapping[str, str]) -> RowBlock:
    return RowBlock(
        kept=table.select(kept.names).cast(kept),
        positions=list(range(position, position + table.num_rows)),
        rows=table_rows(table, present),
    )
