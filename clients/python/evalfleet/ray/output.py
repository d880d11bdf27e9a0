"""The folder of a bulk job: what was asked, and one file a finished piece, which is there whole or not at all."""

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from evalfleet.errors import FailedPreconditionError
from evalfleet.ray.sources import open_filesystem

DESCRIPTION_FILE = "_bulk.json"
"""Readers of Parquet folders skip names that begin so."""
_PART = re.compile(r"part-(\d{6,})\.parquet")
_COUNTS_KEY = b"evalfleet.counts"


@dataclass(frozen=True, slots=True)
class PieceCounts:
    """What became of the rows of one piece, or of several.

    Attributes:
        rows: all of them.
        failed: without a result: their ``error_reason`` says why.
        outcomes: rows by decision, where rows have one.
    """

    rows: int
    failed: int
    outcomes: Mapping[str, int]


class BulkFolder:
    """A job's output, in a folder or below a prefix of a bucket; any number of processes may write pieces at once.

    A piece's file takes its name when it is complete. Whoever writes the same piece again replaces it, so that each
    row has exactly one result.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._filesystem, self._path = open_filesystem(self.uri)

    def begin(self, description: Mapping[str, Any]) -> None:
        """Note what is asked, or make sure that the folder's finished pieces are answers to the same.

        Raises:
            FailedPreconditionError: BULK_OUTPUT_DIFFERS: they are not; BULK_OUTPUT_TAKEN: the folder holds other files.
        """
        self._filesystem.create_dir(self._path, recursive=True)
        noted = self._read(DESCRIPTION_FILE)
        if noted is None:
            if [each for each in self._names() if not each.startswith(".")]:
                raise FailedPreconditionError(
                    f"{self.uri} is not empty and holds no {DESCRIPTION_FILE}: choose another folder",
                    reason="BULK_OUTPUT_TAKEN",
                )
            self._write(DESCRIPTION_FILE, json.dumps(description, indent=2).encode())
            return
        before = json.loads(noted)
        if different := sorted(each for each in {*before, *description} if before.get(each) != description.get(each)):
            raise FailedPreconditionError(
                f"{self.uri} holds the results of another job, with another {' and '.join(different)}: choose another "
                "folder, or ask the same again to go on",
                reason="BULK_OUTPUT_DIFFERS",
                metadata={"different": ",".join(different)},
            )

    def finished(self) -> dict[int, PieceCounts]:
        """Return the counts of the finished pieces, by their numbers."""
        numbers = [int(match[1]) for name in self._names() if (match := _PART.fullmatch(name))]
        return {number: self.counts(number) for number in sorted(numbers)}

    def has(self, number: int) -> bool:
        """Say whether a piece is finished."""
        info = self._filesystem.get_file_info(self._join(part_name(number)))
        return bool(info.type == fs.FileType.File)

    def counts(self, number: int) -> PieceCounts:
        """Return the counts of a finished piece."""
        with self._filesystem.open_input_file(self._join(part_name(number))) as file:
            told = json.loads(pq.read_metadata(file).metadata[_COUNTS_KEY])
        return PieceCounts(told["rows"], told["failed"], told["outcomes"])

    @contextmanager
    def piece(self, number: int, schema: pa.Schema) -> Iterator["PieceWriter"]:
        """Write a piece; it counts as finished when the block ends without an exception, and else is not there."""
        partial = self._join(f".{part_name(number)}.{uuid.uuid4().hex}")
        try:
            with (
                self._filesystem.open_output_stream(partial) as stream,
                pq.ParquetWriter(stream, schema, compression="zstd") as writer,
            ):
                written = PieceWriter(writer)
                yield written
                told = {"rows": written.rows, "failed": written.failed, "outcomes": written.outcomes}
                writer.add_key_value_metadata({_COUNTS_KEY: json.dumps(told).encode()})
            self._filesystem.move(partial, self._join(part_name(number)))
        except BaseException:
            if self._filesystem.get_file_info(partial).type == fs.FileType.File:
                self._filesystem.delete_file(partial)
            raise

    def clear_partial(self) -> None:
        """Remove what processes that were killed have left; call it when nobody writes."""
        for name in self._names():
            if name.startswith(".part-"):
                self._filesystem.delete_file(self._join(name))

    def _names(self) -> list[str]:
        return [str(each.base_name) for each in self._filesystem.get_file_info(fs.FileSelector(self._path))]

    def _join(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _read(self, name: str) -> bytes | None:
        if self._filesystem.get_file_info(self._join(name)).type != fs.FileType.File:
            return None
        with self._filesystem.open_input_stream(self._join(name)) as stream:
            return bytes(stream.read())

    def _write(self, name: str, content: bytes) -> None:
        partial = self._join(f".{name}.{uuid.uuid4().hex}")
        with self._filesystem.open_output_stream(partial) as stream:
            stream.write(content)
        self._filesystem.move(partial, self._join(name))


class PieceWriter:
    """Writes the rows of a piece, and counts them."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.rows = 0
        self.failed = 0
        self.outcomes: dict[str, int] = {}

    def write(self, table: pa.Table, answers: Iterable[Mapping[str, Any]]) -> None:
        """Write rows; ``answers`` are the same ones, for the counts."""
        self._writer.write_table(table)
        for each in answers:
            self.rows += 1
            self.failed += each.get("error_reason") is not None
            if decision := each.get("decision"):
                self.outcomes[decision] = self.outcomes.get(decision, 0) + 1


def part_name(number: int) -> str:
    """Return the name of a piece's file."""
    return f"part-{number:06d}.parquet"


def added(counts: Iterable[PieceCounts]) -> PieceCounts:
    """Add up pieces."""
    rows = failed = 0
    outcomes: dict[str, int] = {}
    for each in counts:
        rows, failed = rows + each.rows, failed + each.failed
        for name, count in each.outcomes.items():
            outcomes[name] = outcomes.get(name, 0) + count
    return PieceCounts(rows, failed, dict(sorted(outcomes.items())))
