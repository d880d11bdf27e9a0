"""How good a guard or a judge is, as records say that name exactly whom they were measured for.

Each is a JSON object whose ``digest`` is the SHA-256 (hex) of all the rest: the calibration record of a judge, or the
quality record of a guard.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalfleet.calibration.agreement import wilson_interval
from evalfleet.calibration.document import DIGEST_FIELD, document_digest, guard_identity
from evalfleet.calibration.guard_quality import MeasuredGuard
from evalfleet.calibration.judge_record import CONFIDENCE_LEVEL
from evalfleet.calibration.judge_record import FORMAT as JUDGE_FORMAT
from evalfleet.errors import CalibrationError
from evalfleet.results import Guard, GuardQuality, JudgeReference

GUARD_FORMAT = "evalfleet/guard-quality/1"


def guard_record(guard: Guard, measured: MeasuredGuard, *, source: str = "") -> dict[str, Any]:
    """Return the content of a guard's quality record.

    Args:
        guard: at its default threshold.
        measured: its verdicts against labels.
        source: where the texts came from.

    Raises:
        CalibrationError: it judged no text labelled unsafe, or none labelled safe.
    """
    if not measured.unsafe or not measured.safe:
        raise CalibrationError(
            "a guard's quality needs texts labelled unsafe and safe that it judged", reason="TOO_FEW_ROWS"
        )
    content: dict[str, Any] = {
        "format": GUARD_FORMAT,
        "created": datetime.now(UTC).date().isoformat(),
        "confidence_level": CONFIDENCE_LEVEL,
        "judge": {**guard_identity(guard), "threshold": guard.default_threshold},
        "rows": {"source": source, "unjudged": dict(sorted(measured.unjudged.items()))},
        "quality": {
            "unsafe_count": measured.unsafe,
            "unsafe_found": measured.found,
            "safe_count": measured.safe,
            "safe_cleared": measured.cleared,
            "sensitivity": _share(measured.found, measured.unsafe),
            "specificity": _share(measured.cleared, measured.safe),
        },
    }
    content[DIGEST_FIELD] = document_digest(content)
    return content


def read_quality(path: Path, metric: str) -> GuardQuality:
    """Return the quality that a record tells, for error-corrected rates of ``metric``, and whose it is.

    Raises:
        CalibrationError: the file is no such record, was changed, or says nothing of passing and failing texts.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"cannot read {path}: {error}", reason="FILE_NOT_READABLE") from error
    if not isinstance(content, dict) or content.get("format") not in (JUDGE_FORMAT, GUARD_FORMAT):
        raise CalibrationError(
            f"{path} is no record of `evalfleet calibrate-judge`, or of one guard of `calibrate-guard`",
            reason="RECORD_INVALID",
        )
    if content.get(DIGEST_FIELD) != document_digest(content):
        raise CalibrationError(f"{path} was changed: its digest is another", reason="RECORD_DIGEST_WRONG")
    return _of_guard(content, metric) if content["format"] == GUARD_FORMAT else _of_judge(content, metric, path)


def _of_guard(content: dict[str, Any], metric: str) -> GuardQuality:
    told, quality = content["judge"], content["quality"]
    digest = ":".join(told[name] for name in ("weights_digest", "template_digest", "calibration_digest"))
    return GuardQuality(
        metric=metric,
        unsafe_count=quality["unsafe_count"],
        unsafe_found=quality["unsafe_found"],
        safe_count=quality["safe_count"],
        safe_cleared=quality["safe_cleared"],
        judge=JudgeReference(told["guard"], told["engine"], digest),
    )


def _of_judge(content: dict[str, Any], metric: str, path: Path) -> GuardQuality:
    quality = content["quality"]
    if quality is None:
        raise CalibrationError(
            f"{path} does not say how often the judge is right on texts that pass and that fail: it was made from "
            "rows of one kind, or without --passes",
            reason="RECORD_WITHOUT_QUALITY",
        )
    told = content["judge"]
    return GuardQuality(
        metric=metric,
        unsafe_count=quality["passing_count"],
        unsafe_found=quality["passing_found"],
        safe_count=quality["failing_count"],
        safe_cleared=quality["failing_found"],
        judge=JudgeReference(told["name"], told["version"], told["digest"]),
    )


def _share(count: int, total: int) -> dict[str, Any]:
    interval = list(wilson_interval(count, total, CONFIDENCE_LEVEL))
    return {"count": count, "of": total, "share": count / total, "interval": interval}
