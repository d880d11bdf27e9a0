"""Bulk work beyond one machine, with Ray as the engine; needs the extra ``evalfleet[ray]``.

``Classify``, ``Score`` and ``Generate`` are for ``Dataset.map_batches`` of any Ray data set; ``run_bulk`` answers whole
files into a folder, and goes on where it ended.
"""

from evalfleet.errors import MissingExtraError

try:
    from evalfleet.ray.callables import Classify, Generate, Score
    from evalfleet.ray.pieces import Layout
    from evalfleet.ray.questions import Asking, ClassifyQuestion, GenerateQuestion, ScoreQuestion
    from evalfleet.ray.running import BulkError, BulkJob, BulkProgress, BulkSummary, run_bulk
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in ("ray", "pyarrow"):
        raise
    raise MissingExtraError(
        f"bulk work needs {missing.name}: pip install 'evalfleet[ray]'", reason="EXTRA_MISSING"
    ) from None

__all__ = [
    "Asking",
    "BulkError",
    "BulkJob",
    "BulkProgress",
    "BulkSummary",
    "Classify",
    "ClassifyQuestion",
    "Generate",
    "GenerateQuestion",
    "Layout",
    "Score",
    "ScoreQuestion",
    "run_bulk",
]
