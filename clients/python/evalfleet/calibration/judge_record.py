"""The calibration record of a judge: how it did on texts that people judged.

A JSON object whose ``digest`` is the SHA-256 (hex) of all the rest, as in the calibration files of guards.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from evalfleet.calibration.agreement import Range, bootstrap_interval, cohen_kappa, fleiss_kappa, wilson_interval
from evalfleet.calibration.document import DIGEST_FIELD, document_digest
from evalfleet.calibration.judged_rows import JudgedRow, JudgedRows, LabelledTexts
from evalfleet.errors import CalibrationError

FORMAT = "evalfleet/judge-calibration/1"
CONFIDENCE_LEVEL = 0.95
_WINNER = "response"


def judge_record(
    judged: JudgedRows,
    texts: LabelledTexts,
    parameters: Mapping[str, Any],
    *,
    passing: Collection[str] = (),
    source: str = "",
) -> dict[str, Any]:
    """Return the content of a judge's calibration record.

    Args:
        judged: what people and the judge said.
        texts: the rows that were judged.
        parameters: that the judge was asked with.
        passing: labels that count as passing; default: ``response``, who wins a comparison.
        source: where the rows came from.

    Raises:
        CalibrationError: the judge gave no verdict at all.
    """
    answered = [row for row in judged.rows if not row.failure]
    reasons = Counter(row.failure for row in judged.rows if row.failure)
    if judged.judge is None or not answered:
        told = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise CalibrationError(f"the judge gave no verdict on any row ({told})", reason="NO_VERDICTS")
    content: dict[str, Any] = {
        "format": FORMAT,
        "created": datetime.now(UTC).date().isoformat(),
        "confidence_level": CONFIDENCE_LEVEL,
        "judge": {
            "name": judged.judge.name,
            "version": judged.judge.version,
            "digest": judged.judge.digest,
            "parameters": dict(parameters),
        },
        "rows": {"count": len(judged.rows), "source": source, "digest": texts.digest},
        "errors": {
            **_share(len(judged.rows) - len(answered), len(judged.rows)),
            "reasons": dict(sorted(reasons.items())),
        },
        "agreement": _share(sum(row.verdict == row.label for row in answered), len(answered)),
        "kappa": _kappa(answered),
        "confusion": _confusion(answered),
        "quality": _quality(answered, passing or (_WINNER,)),
        "position": _position(answered),
        "votes": _votes(answered),
        "cost": {"computed_tokens": judged.computed_tokens, "cached_rows": judged.cached_rows},
    }
    content[DIGEST_FIELD] = document_digest(content)
    return content


def _share(count: int, total: int) -> dict[str, Any]:
    return {
        "count": count,
        "of": total,
        "share": count / total if total else None,
        "interval": list(wilson_interval(count, total, CONFIDENCE_LEVEL)),
    }


def _kappa(rows: Sequence[JudgedRow]) -> dict[str, Any]:
    pairs = [(row.label, row.verdict) for row in rows]
    said = {each for pair in pairs for each in pair}
    numbers = {each: float(each) for each in said} if all(each.isdecimal() for each in said) else None
    interval = bootstrap_interval(pairs, lambda some: cohen_kappa(some, numbers), confidence_level=CONFIDENCE_LEVEL)
    return {
        "value": cohen_kappa(pairs, numbers),
        "weights": "none" if numbers is None else "quadratic",
        "interval": _listed(interval),
    }


def _confusion(rows: Sequence[JudgedRow]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in sorted(rows, key=lambda each: (each.label, each.verdict)):
        of_label = counts.setdefault(row.label, {})
        of_label[row.verdict] = of_label.get(row.verdict, 0) + 1
    return counts


def _quality(rows: Sequence[JudgedRow], passing: Collection[str]) -> dict[str, Any] | None:
    """Return how often the judge's ``passed`` is right; ``None`` without passing, or without failing rows."""
    good = [row.metrics["passed"] == 1.0 for row in rows if row.label in passing]
    bad = [row.metrics["passed"] == 1.0 for row in rows if row.label not in passing]
    if not good or not bad:
        return None
    found, cleared = sum(good), len(bad) - sum(bad)
    return {
        "metric": "passed",
        "passing_labels": sorted(passing),
        "passing_count": len(good),
        "passing_found": found,
        "failing_count": len(bad),
        "failing_found": cleared,
        "sensitivity": _share(found, len(good)),
        "specificity": _share(cleared, len(bad)),
    }


def _position(rows: Sequence[JudgedRow]) -> dict[str, Any] | None:
    """Return the position bias of comparisons; ``None`` for other judges."""
    if any("position_inconsistent" not in row.metrics for row in rows):
        return None
    return {name: _mean([row.metrics[name] for row in rows]) for name in ("position_inconsistent", "first_preferred")}


def _votes(rows: Sequence[JudgedRow]) -> dict[str, Any] | None:
    """Return how far several votes agree; ``None`` for single ones."""
    counts = {len(row.votes) for row in rows}
    if len(counts) != 1 or counts == {1}:
        return None
    ratings = [row.votes for row in rows]
    return {
        "per_row": counts.pop(),
        "agreement": _mean([row.metrics["agreement"] for row in rows]),
        "fleiss_kappa": {
            "value": fleiss_kappa(ratings),
            "interval": _listed(bootstrap_interval(ratings, fleiss_kappa, confidence_level=CONFIDENCE_LEVEL)),
        },
    }


def _mean(values: Sequence[float]) -> dict[str, Any]:
    interval = bootstrap_interval(values, fmean, confidence_level=CONFIDENCE_LEVEL)
    return {"value": fmean(values), "interval": _listed(interval)}


def _listed(interval: Range | None) -> list[float] | None:
    return None if interval is None else list(interval)
