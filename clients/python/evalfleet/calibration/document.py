"""The calibration file of a cascade: which guards, which thresholds, what is promised, and what that rests on.

A JSON object whose ``digest`` is the SHA-256 (hex) of all the rest, written with sorted keys and no spaces. The safety
service refuses a file that was changed by hand, or whose guards are not exactly those that it has.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalfleet.calibration.fitting import CascadeFit, StageFit
from evalfleet.errors import CalibrationError
from evalfleet.results import Guard

FORMAT = "evalfleet/cascade-calibration/1"
METHOD = "learn-then-test, split fixed sequence"
DIGEST_FIELD = "digest"


def document_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a calibration file's content, its own digest left out."""
    rest = {key: value for key, value in content.items() if key != DIGEST_FIELD}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cascade_document(
    name: str, description: str, guards: Sequence[Guard], fit: CascadeFit, *, source: str
) -> dict[str, Any]:
    """Return the content of a calibration file.

    Args:
        name: of the cascade as a guard.
        description: a sentence.
        guards: its guards, cheapest first; one more than ``fit`` has stages.
        fit: the thresholds and what speaks for them.
        source: where the rows came from.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "description": description,
        "created": datetime.now(UTC).date().isoformat(),
        "promise": {
            "disagreement": fit.promise.epsilon,
            "confidence": 1 - fit.promise.delta,
            "promised_rows": fit.promise.promised_rows,
            "method": METHOD,
        },
        "stages": [
            *(_early(guard, stage) for guard, stage in zip(guards, fit.stages, strict=False)),
            guard_identity(guards[-1]),
        ],
        "evidence": {
            "source": source,
            "seed": fit.seed,
            "ordering_rows": fit.ordering_rows,
            "promise_rows": fit.promise_rows,
            "held_out_rows": fit.held_out.rows,
            "held_out_mistakes": fit.held_out.mistakes,
            "held_out_escalated": fit.held_out.escalated,
        },
    }
    content[DIGEST_FIELD] = document_digest(content)
    return content


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a calibration file, whole or not at all.

    Raises:
        CalibrationError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise CalibrationError(f"cannot write {path}: {error}", reason="FILE_NOT_WRITABLE") from error


def _early(guard: Guard, stage: StageFit) -> dict[str, Any]:
    outcome = stage.choice.outcome
    return {
        **guard_identity(guard),
        "low": stage.choice.thresholds.low,
        "high": stage.choice.thresholds.high,
        "temperature": stage.temperature,
        "evidence": {
            "mistakes": outcome.mistakes,
            "escalated": outcome.escalated,
            "p_value": stage.choice.p_value,
            "thresholds_tested": stage.choice.tested,
            "calibration_error_before": asdict(stage.errors_before) if stage.errors_before else None,
            "calibration_error_after": asdict(stage.errors_after) if stage.errors_after else None,
        },
    }


def guard_identity(guard: Guard) -> dict[str, Any]:
    """Return which exact guard it is, as the files of this package name it."""
    reference = asdict(guard.reference)
    return {"guard": reference.pop("name"), **reference}
