"""Items and estimates as Parquet (zstd), written some rows at a time; needs the extra ``parquet``."""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evalfleet.exports.files import file_name, whole_file
from evalfleet.exports.rows import (
    ESTIMATE_COLUMNS,
    REAL,
    TEXT,
    TIME,
    TRUTH,
    WHOLE,
    estimate_rows,
    item_columns,
    item_rows,
)
from evalfleet.exports.sources import ExportedRun

_ROWS_A_GROUP = 2000
_TYPES = {
    TEXT: pa.string(),
    WHOLE: pa.int64(),
    REAL: pa.float64(),
    TRUTH: pa.bool_(),
    TIME: pa.timestamp("us", tz="UTC"),
}


def write(run: ExportedRun, folder: Path) -> list[Path]:
    """Write ``RUN_items.parquet`` and ``RUN_estimates.parquet``; the run's digests are in the files' metadata."""
    name = file_name(run.name)
    items, estimates = folder / f"{name}_items.parquet", folder / f"{name}_estimates.parquet"
    about = {
        "evalfleet.run": run.run.name,
        "evalfleet.suite_digest": run.run.suite_digest,
        "evalfleet.model_digest": run.run.model_digest,
        **{f"evalfleet.data_digest.{each.task}": each.data_digest for each in run.run.tasks},
    }
    _write(items, item_columns(run), item_rows(run), about)
    _write(estimates, ESTIMATE_COLUMNS, estimate_rows(run), about)
    return [items, estimates]


def _write(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]], about: Mapping[str, str]) -> None:
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()], metadata=dict(about))
    remaining = iter(rows)
    with whole_file(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as file:
        while some := list(islice(remaining, _ROWS_A_GROUP)):
            file.write_table(pa.Table.from_pylist(some, schema=schema))
