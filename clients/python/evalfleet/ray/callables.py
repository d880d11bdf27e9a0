"""What Ray Data calls in its workers: on the batches of anybody's data set, and on the pieces of a bulk job."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from evalfleet.answers import Sampling
from evalfleet.errors import EvalFleetError, InvalidArgumentError
from evalfleet.fleet import Fleet
from evalfleet.ray.output import BulkFolder
from evalfleet.ray.parquet_rows import ParquetRows
from evalfleet.ray.pieces import read_blocks
from evalfleet.ray.questions import (
    ERROR_FIELDS,
    Asking,
    ClassifyQuestion,
    GenerateQuestion,
    Question,
    ScoreQuestion,
)
from evalfleet.ray.row_blocks import Piece, RowBlock, table_rows
from evalfleet.ray.row_outcomes import Row
from evalfleet.verdicts import Aspect

SOURCE_FIELDS = (("source_file", pa.string()), ("source_position", pa.int64()))
"""Of a bulk job's rows: the file, and the row in it (Parquet) or the byte at which it begins (JSON lines)."""


class AnsweredBatches:
    """Adds the fleet's answers to the rows of a batch, as columns; for ``Dataset.map_batches`` with ``pyarrow``.

    Each actor has one connection, and at most ``asking.window`` rows in flight. A row without a result has
    ``error_reason`` and ``error_message``, and null in the other columns.

    Args:
        question: what to ask.
        targets: addresses by service; the others come from the worker's environment.
        asking: how hard.
        prefix: before the names of the columns that are added.

    Raises:
        EvalFleetError: from a call: the service is away for longer than ``asking.patience_seconds``, or refuses.
    """

    def __init__(
        self,
        question: Question,
        *,
        targets: Mapping[str, str] | None = None,
        asking: Asking | None = None,
        prefix: str = "",
    ) -> None:
        self._question = question
        self._asking = asking or Asking()
        self._schema = answer_schema(question, prefix)
        self._prefix = prefix
        self._fleet = Fleet.connect(targets)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with its answers."""
        check_names(batch.schema.names, self._schema)
        present = {name: column for name, column in self._question.inputs.items() if column in batch.schema.names}
        rows = table_rows(batch, present)
        answers = list(self._question.answers(self._fleet, rows, self._asking))
        added = answer_table(answers, self._schema, self._prefix)
        for name in added.schema.names:
            batch = batch.append_column(added.schema.field(name), added.column(name))
        return batch


class Classify(AnsweredBatches):
    """Judges the safety of each row; see ``AnsweredBatches`` and ``ClassifyQuestion``."""

    def __init__(
        self,
        *,
        guard: str = "",
        policy: str = "",
        threshold: float | None = None,
        aspect: Aspect | None = None,
        columns: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ClassifyQuestion(guard, policy, threshold, aspect, columns or {}), **options)


class Score(AnsweredBatches):
    """Scores each row; see ``AnsweredBatches`` and ``ScoreQuestion``."""

    def __init__(
        self,
        *,
        scorer: str,
        parameters: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ScoreQuestion(scorer, parameters or {}, columns or {}), **options)


class Generate(AnsweredBatches):
    """Lets a model answer each row; see ``AnsweredBatches`` and ``GenerateQuestion``."""

    def __init__(
        self,
        *,
        model: str,
        sampling: Sampling | None = None,
        is_raw: bool = False,
        columns: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(GenerateQuestion(model, sampling or Sampling(), is_raw, columns or {}), **options)


class AnsweredPieces:
    """Answers whole pieces of a bulk job and writes each to its file; yields how each went.

    A piece that is there already is not asked again: Ray may call for it twice, when a worker has died.
    """

    def __init__(
        self, question: Question, kept: pa.Schema, out: str, targets: Mapping[str, str], asking: Asking, prefix: str
    ) -> None:
        self._question = question
        self._kept = kept
        self._folder = BulkFolder(out)
        self._asking = asking
        self._prefix = prefix
        self._fleet = Fleet.connect(targets)
        self._parquet = ParquetRows()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Answer the pieces of a batch; one that cannot be finished says why, and has no file."""
        told: dict[str, list[Any]] = {"number": [], "error_reason": [], "error_message": []}
        columns = [batch[each].tolist() for each in ("number", "uri", "begin", "end")]
        for piece in (Piece(*each) for each in zip(*columns, strict=True)):
            reason = message = ""
            try:
                if not self._folder.has(piece.number):
                    self._finish(piece)
            except EvalFleetError as error:
                reason, message = error.reason, error.explanation()
            except (OSError, pa.ArrowException) as error:
                reason, message = "BULK_FILE_FAILED", f"{piece.uri}: {error}"
            if reason:
                # The thread that read ahead for it may be at it still.
                self._parquet = ParquetRows()
            for name, value in (("number", piece.number), ("error_reason", reason), ("error_message", message)):
                told[name].append(value)
        return told

    def _finish(self, piece: Piece) -> None:
        answered = answer_schema(self._question, self._prefix)
        schema = pa.schema([*self._kept, *pa.schema(SOURCE_FIELDS), *answered])
        reading: deque[RowBlock] = deque()

        def rows() -> Iterator[Row]:
            # Read ahead of the answers, by no more rows than may be in flight.
            for block in read_blocks(piece, self._kept, self._question.inputs, self._parquet):
                reading.append(block)
                yield from block.rows

        answers: list[dict[str, Any]] = []
        with self._folder.piece(piece.number, schema) as writer:
            for answer in self._question.answers(self._fleet, rows(), self._asking):
                answers.append(answer)
                if len(answers) == len(reading[0].rows):
                    block = reading.popleft()
                    source = pa.table([[piece.uri] * len(answers), block.positions], schema=pa.schema(SOURCE_FIELDS))
                    told = answer_table(answers, answered, self._prefix)
                    columns = [*block.kept.columns, *source.columns, *told.columns]
                    writer.write(pa.Table.from_arrays(columns, schema=schema), answers)
                    answers = []


def answer_schema(question: Question, prefix: str) -> pa.Schema:
    """Return the columns that are added to a row."""
    return pa.schema([(f"{prefix}{name}", kind) for name, kind in (*question.fields, *ERROR_FIELDS)])


def answer_table(answers: list[dict[str, Any]], schema: pa.Schema, prefix: str) -> pa.Table:
    """Return answers as columns; what an answer does not have is null."""
    columns = [pa.array([each.get(field.name[len(prefix) :]) for each in answers], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def check_names(present: list[str], added: pa.Schema) -> None:
    """Refuse rows that have a column of the name of one that is added.

    Raises:
        InvalidArgumentError: COLUMN_TAKEN.
    """
    if taken := sorted(set(present) & set(added.names)):
        raise InvalidArgumentError(
            f"the rows have a column {taken[0]!r} already: give a prefix for those of the answers",
            reason="COLUMN_TAKEN",
        )
