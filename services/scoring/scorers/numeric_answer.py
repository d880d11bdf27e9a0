"""Numeric answers, compared as exact decimal numbers."""

import decimal
from typing import ClassVar, Literal

from pydantic import Field

from services.runtime.errors import FieldViolation
from services.scoring.contract import (
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
)
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.extraction import find_candidates
from services.scoring.numbers import NUMBER_PATTERN, parse_number
from services.scoring.patterns import PatternMatcher, PatternText
from services.scoring.requirements import require_targets, require_text

_STRICT_PATTERN = rf"####\s*({NUMBER_PATTERN})"
# Wide enough to add and subtract any two numbers that parse_number accepts without rounding.
_EXACT = decimal.Context(prec=8192)


class NumericAnswerParameters(ScorerParameters):
    """How the number is found and how close it must be."""

    added_later: ClassVar[frozenset[str]] = frozenset({"relative_tolerance"})

    mode: Literal["strict", "flexible"] = Field(
        "strict",
        description="strict: the first match of the pattern, by default the number after `####` as in GSM8K; "
        "flexible: the last match that is a number, by default the last number of the text.",
    )
    pattern: PatternText | None = Field(
        None,
        description="Regular expression that finds the number: its first group that is not empty, or its whole match; "
        "absent: the mode's own.",
    )
    tolerance: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Largest absolute difference that still counts as right."
    )
    relative_tolerance: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Largest difference that still counts as right, as a share of the target; the larger of the two "
        "tolerances holds.",
    )


class NumericAnswer:
    """1 if the number found in the text equals an accepted one."""

    about = ScorerDescription(
        name="numeric_answer",
        version="1",
        description="Finds a number in the text and compares it with the accepted ones as exact decimals, so 18, 18.0 "
        "and $18.00 are equal. Commas, no-break and thin spaces, currency signs, % and a final period are dropped, as "
        "lm-evaluation-harness's gsm8k does for its text comparison (commas are never decimal). A target is a number, "
        "or a worked solution with the number after `####`.",
        metrics=(MetricDescription("numeric_match", "1 if the number equals one of the targets, else 0."),),
        libraries=("regex",),
    )
    parameters_type = NumericAnswerParameters

    def score(self, parameters: NumericAnswerParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        matcher = PatternMatcher()
        accepted = [self._target(matcher, index, target) for index, target in enumerate(targets)]
        answer = _find_number(matcher, parameters, text)
        if answer is None:
            return Score({"numeric_match": 0.0}, None)
        is_match = any(_is_close(parameters, answer, number) for number in accepted)
        return Score({"numeric_match": float(is_match)}, format(answer, "f"))

    def _target(self, matcher: PatternMatcher, index: int, target: str) -> decimal.Decimal:
        number = parse_number(target)
        if number is None:
            solutions = find_candidates(matcher, _STRICT_PATTERN, target)
            number = parse_number(solutions[-1]) if solutions and solutions[-1] is not None else None
        if number is None:
            raise InvalidScoreRequestError(
                self.about.name,
                FieldViolation(f"targets[{index}]", f"{target[-60:]!r} is neither a number nor ends in `#### number`"),
            )
        return number


def _is_close(parameters: NumericAnswerParameters, answer: decimal.Decimal, target: decimal.Decimal) -> bool:
    absolute, relative = (
        decimal.Decimal(repr(tolerance)) for tolerance in (parameters.tolerance, parameters.relative_tolerance)
    )
    tolerance = max(absolute, _EXACT.multiply(relative, _EXACT.abs(target)))
    return _EXACT.abs(_EXACT.subtract(answer, target)) <= tolerance


def _find_number(matcher: PatternMatcher, parameters: NumericAnswerParameters, text: str) -> decimal.Decimal | None:
    is_strict = parameters.mode == "strict"
    pattern = parameters.pattern or (_STRICT_PATTERN if is_strict else NUMBER_PATTERN)
    candidates = find_candidates(matcher, pattern, text)
    for candidate in candidates[:1] if is_strict else reversed(candidates):
        number = parse_number(candidate) if candidate is not None else None
        if number is not None:
            return number
    return None
