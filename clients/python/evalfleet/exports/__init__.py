"""Results of runs in the formats of others: Every Eval Ever, Inspect AI, lm-evaluation-harness, Parquet, CSV.

    export(fleet, "gsm8k-1a2b3c", "every-eval-ever", Path("exported"))

One module a format; each writes what it reads page by page, in constant memory where its format allows that.
"""

from evalfleet.exports.formats import FORMATS, UnknownFormatError, export, format_named
from evalfleet.exports.sources import ExportedRun, ExportError, Publisher

__all__ = ["FORMATS", "ExportError", "ExportedRun", "Publisher", "UnknownFormatError", "export", "format_named"]
