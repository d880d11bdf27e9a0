"""Items and estimates as CSV (RFC 4180, UTF-8, with a line of names), written row by row."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from evalfleet.exports.files import file_name, whole_file
from evalfleet.exports.rows import ESTIMATE_COLUMNS, estimate_rows, item_columns, item_rows
from evalfleet.exports.sources import ExportedRun


def write(run: ExportedRun, folder: Path) -> list[Path]:
    """Write ``RUN_items.csv`` and ``RUN_estimates.csv``; what has no value is an empty field."""
    name = file_name(run.name)
    items, estimates = folder / f"{name}_items.csv", folder / f"{name}_estimates.csv"
    _write(items, list(item_columns(run)), item_rows(run))
    _write(estimates, list(ESTIMATE_COLUMNS), estimate_rows(run))
    return [items, estimates]


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in rows:
            table.writerow([_field(row.get(each)) for each in columns])


def _field(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    # repr gives back the same number; booleans are written as every other tool writes them.
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value
