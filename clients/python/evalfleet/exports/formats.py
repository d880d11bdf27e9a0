"""The formats by name, and the one way in."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from evalfleet.exports.sources import ExportedRun, ExportError, Publisher, read_run
from evalfleet.extras import needed
from evalfleet.fleet import Fleet


class UnknownFormatError(ExportError):
    """There is no such format; the message names the nearest."""


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format.

    Attributes:
        name: as it is asked for.
        about: in one line.
        module: where its ``write`` is, which takes the run and a folder and returns the files.
        package: what has to be installed, by ``extra``; empty: nothing.
    """

    name: str
    about: str
    module: str
    package: str = ""
    extra: str = ""

    def write(self, run: ExportedRun, folder: Path) -> list[Path]:
        """Write a run into a folder and return the files.

        Raises:
            MissingExtraError: a package is not installed.
            ExportError: the run does not fit the format.
            OSError: a file cannot be written.
        """
        if self.package:
            needed(self.package, extra=self.extra)
        writer: Callable[[ExportedRun, Path], list[Path]] = import_module(self.module).write
        return writer(run, folder)


_ALL = (
    ExportFormat(
        "every-eval-ever",
        "Every Eval Ever 0.3.0: aggregate JSON and samples JSONL",
        "evalfleet.exports.every_eval_ever",
    ),
    ExportFormat(
        "inspect", "Inspect AI .eval logs, one a task", "evalfleet.exports.inspect_logs", "inspect_ai", "inspect"
    ),
    ExportFormat(
        "lm-eval", "lm-evaluation-harness results JSON and samples JSONL", "evalfleet.exports.lm_eval_results"
    ),
    ExportFormat("parquet", "items and estimates as Parquet", "evalfleet.exports.parquet_tables", "pyarrow", "parquet"),
    ExportFormat("csv", "items and estimates as CSV", "evalfleet.exports.csv_tables"),
)
FORMATS: Mapping[str, ExportFormat] = {each.name: each for each in _ALL}


def format_named(name: str) -> ExportFormat:
    """Find a format.

    Raises:
        UnknownFormatError: there is none of this name.
    """
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(FORMATS)}"
    raise UnknownFormatError(f"no format named {name!r}{hint}", reason="UNKNOWN_FORMAT")


def export(fleet: Fleet, run: str, format_name: str, folder: Path, *, publisher: Publisher | None = None) -> list[Path]:
    """Write a run that has ended into a folder, and return the files.

    Raises:
        ExportError: there is no such format, the run has not ended, or it does not fit the format.
        MissingExtraError: a package is not installed.
        EvalFleetError: the fleet could not be asked.
        OSError: a file cannot be written.
    """
    wanted = format_named(format_name)
    return wanted.write(read_run(fleet, run, publisher or Publisher()), folder)
