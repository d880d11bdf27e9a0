"""The value of an Inspect score as a number from 0 to 1, where somebody knows it."""

import math
from collections.abc import Mapping

from inspect_ai.scorer import SampleScore, Score, value_to_float

_UNKNOWN_REASONS = frozenset({"grader_failed", "scoring_failed"})
_TO_FLOAT = value_to_float()


def known_value(scores: Mapping[str, SampleScore], scorer: str | None, key: str | None) -> tuple[float | None, str]:
    """Return a sample's value, or ``None`` and why there is none, in UPPER_SNAKE.

    Not known are scores that are missing, of which the judge failed, that are no single number, or that lie beyond 0
    to 1. A model that gave no answer is wrong, as in Inspect.

    Args:
        scores: by scorer.
        scorer: whose score counts; ``None``: the only one's.
        key: which of its values counts, where there are several.
    """
    if scorer is None and len(scores) != 1:
        return None, "SCORER_NOT_NAMED"
    found = scores.get(scorer) if scorer is not None else next(iter(scores.values()))
    if found is None:
        return None, "SCORE_MISSING"
    if found.score.reason in _UNKNOWN_REASONS:
        return None, str(found.score.reason).upper()
    return _number(found.score, key)


def _number(score: Score, key: str | None) -> tuple[float | None, str]:
    value = score.value
    if isinstance(value, Mapping):
        value = value.get(key or "")  # type: ignore[assignment]  # checked below
    if value is None or not isinstance(value, (str, int, float)):
        return None, "SCORE_MISSING"
    number = _TO_FLOAT(value)
    if math.isnan(number):
        return None, "SCORE_MISSING"
    return (number, "") if 0 <= number <= 1 else (None, "SCORE_OUT_OF_RANGE")
