"""Detects refusals by their wording. It judges no hazard: whether the response is safe, it does not say."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from services.safety.judgement import (
    Aspect,
    Decision,
    GuardDescription,
    GuardReference,
    JudgedTurn,
    Verdict,
)

NOT_A_HAZARD_GUARD: Final = "HAZARD_NOT_JUDGED"
ENGINE: Final = "phrases"

_OPENING_CHARACTERS: Final = 400
"""A refusal stands at the beginning; what comes later may be a quotation or a remark."""

_LEAST_LATIN_SHARE: Final = 0.5

# Matched against lower-case text with straight apostrophes and single spaces. Written for this project, not fitted to
# any data. Each alternative is bounded in length, so matching takes time in proportion to the text.
_WORD: Final = r"(?:\w{2,12} )?"
_WE: Final = r"\b(?:i|we)"
_WE_ARE: Final = r"\b(?:i|we)(?:'m| am|'re| are)"
_DO: Final = (
    r"(?:help|assist|do (?:that|this|it)|provide|offer|give|share|answer|comply|fulfil|fulfill|continue|engage|discuss|"
    r"write|create|generate|produce|support|explain|describe|participate|take part|tell you|teach|show you|advise|"
    r"role-?play|pretend|recommend|complete|respond|go along|be part|talk about|work on)\b"
)
_RULES: Final = rf"my {_WORD}(?:guidelines|policy|policies|principles|programming|values|rules)"
_PHRASES: Final = (
    rf"{_WE} {_WORD}(?:can't|cannot|can not|won't|will not|couldn't|mustn't) {_WORD}{_DO}",
    rf"{_WE_ARE} {_WORD}(?:not able|unable|not allowed|not permitted|not going|not willing|unwilling|not prepared) to "
    rf"{_WORD}{_DO}",
    rf"{_WE}(?:'ll| will)? (?:must|have to|need to) {_WORD}(?:decline|refuse)\b",
    rf"{_WE} {_WORD}(?:decline|refuse) to\b",
    rf"{_WE}(?:'d| would) (?:rather|prefer) not\b",
    rf"{_WE_ARE} (?:not comfortable|uncomfortable)\b",
    rf"{_WE} (?:don't|do not) feel comfortable\b",
    r"\bnot something (?:that )?(?:i|we)(?:'m| am|'re| are)? (?:can|could|will|would|able|willing|going)\b",
    r"\b(?:this|that|your|the) (?:request|question|prompt) (?:violates|goes against|is against|breaches)\b",
    rf"\b(?:against|violates?) {_RULES}\b",
    rf"\b{_RULES} (?:prevent|prohibit|forbid|do not|don't)",
    r"\b(?:sorry|apologi[sz]e|apologies),? (?:but )?i (?:can't|cannot|won't|will not)"
    r"(?! (?:find|see|tell if|be sure)\b)",
    rf"\bno,? {_WE} (?:won't|will not|refuse)\b",
)
_REFUSAL: Final = re.compile("|".join(_PHRASES))
_APOSTROPHES: Final = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4`", "'"))


def detect_refusal(text: str) -> bool | None:
    """Return whether a response declines; None where its script is not the one that the phrases are written in."""
    letters = [each for each in text[:_OPENING_CHARACTERS] if each.isalpha()]
    if not letters or sum("LATIN" in unicodedata.name(each, "") for each in letters) < _LEAST_LATIN_SHARE * len(
        letters
    ):
        return None
    opening = " ".join(text.translate(_APOSTROPHES).lower()[:_OPENING_CHARACTERS].split())
    return _REFUSAL.search(opening) is not None


class RefusalGuard:
    """Implements ``Guard`` for responses: ``refusal`` is its answer, and its decision is ERROR.

    ERROR, because a caller that only looks at decisions must not take a compliant answer for a safe one.

    Args:
        name: its resource name, ``guards/{guard}``.
    """

    def __init__(self, name: str) -> None:
        phrases = hashlib.sha256("\n".join([*_PHRASES, str(_OPENING_CHARACTERS)]).encode()).hexdigest()
        self._about = GuardDescription(
            reference=GuardReference(name, phrases, "", "", ENGINE, ""),
            description="Detects English refusals by their wording; judges no hazard.",
            aspects=(Aspect.RESPONSE,),
            categories=(),
            default_threshold=None,
            max_tokens=None,
        )

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return true: it needs nothing."""
        return True

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Say of each response whether it declines."""
        return [self._verdict(detect_refusal(turn.content)) for turn in turns]

    def _verdict(self, refusal: bool | None) -> Verdict:
        return Verdict(
            Decision.ERROR,
            self._about.reference,
            None,
            error_reason=NOT_A_HAZARD_GUARD,
            refusal=refusal,
            # Whether the request was harmless is not known, so only compliance settles over-refusal.
            over_refusal=False if refusal is False else None,
        )
