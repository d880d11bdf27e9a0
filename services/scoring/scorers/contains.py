"""Whether a text contains accepted answers."""

from typing import Literal

import regex
from pydantic import Field

from services.runtime.errors import FieldViolation
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.patterns import MAX_PATTERN_CHARACTERS, PatternMatcher
from services.scoring.requirements import require_targets, require_text

_UNCHECKED_TARGETS = 16
"""So many are sought before the time is looked at, which takes longer than to find a short one."""
_WORD = regex.compile(r"\w")
# Escaping a character may double it, and the two sides take a few more.
_LONGEST_BOUNDED = MAX_PATTERN_CHARACTERS // 2 - 20


class ContainsParameters(ScorerParameters):
    """How many targets must be there, and what counts as being there."""

    mode: Literal["any", "all"] = Field("any", description="How many of the targets the text must contain: any or all.")
    word_boundary: bool = Field(
        False,
        description="A target counts only where no letter, mark, digit or underscore goes on: art is not in start.",
    )
    ignore_case: bool = Field(False, description="Compare in lower case.")

    def unused_libraries(self) -> frozenset[str]:
        """Return ``regex`` where targets are sought as they are."""
        return frozenset() if self.word_boundary else frozenset({"regex"})


class Contains:
    """1 if the text contains the accepted answers."""

    about = ScorerDescription(
        name="contains",
        version="2",
        description="Looks for the targets in the text, as Inspect AI's includes() does for one target. White space "
        "and punctuation count as they are; an empty target is refused, because every text contains it.",
        metrics=(MetricDescription("contains", "1 if the text contains the targets that mode asks for, else 0."),),
        libraries=("regex",),
    )
    parameters_type = ContainsParameters

    def score(self, parameters: ContainsParameters, item: ScoringItem, output: Output) -> Score:
        """Search one text; the answer is the first target found. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        self._check(parameters, targets)
        matcher = PatternMatcher()
        searched = text.lower() if parameters.ignore_case else text
        found = []
        for index, target in enumerate(targets):
            if index % _UNCHECKED_TARGETS == _UNCHECKED_TARGETS - 1:
                matcher.check(target)
            if _is_in(matcher, parameters, target, searched):
                found.append(target)
        is_right = bool(found) if parameters.mode == "any" else len(found) == len(targets)
        return Score({"contains": float(is_right)}, found[0] if found else None)

    def _check(self, parameters: ContainsParameters, targets: tuple[str, ...]) -> None:
        violations = [
            FieldViolation(f"targets[{index}]", "is empty, and every text contains that")
            for index, target in enumerate(targets)
            if not target
        ]
        if parameters.word_boundary:
            violations.extend(
                FieldViolation(
                    f"targets[{index}]",
                    f"is {len(target)} characters long; with word_boundary the limit is {_LONGEST_BOUNDED}",
                )
                for index, target in enumerate(targets)
                if len(target) > _LONGEST_BOUNDED
            )
        if violations:
            raise InvalidScoreRequestError(self.about.name, *violations)


def _is_in(matcher: PatternMatcher, parameters: ContainsParameters, target: str, text: str) -> bool:
    sought = target.lower() if parameters.ignore_case else target
    if not parameters.word_boundary:
        return sought in text
    if sought not in text:
        return False
    pattern = regex.escape(sought, literal_spaces=True)
    # A target that begins or ends with a sign, such as "(B)", has no word there that could go on.
    before = r"(?<!\w)" if _is_word(sought[0]) else ""
    after = r"(?!\w)" if _is_word(sought[-1]) else ""
    return matcher.find_first(f"{before}{pattern}{after}", text) is not None


def _is_word(character: str) -> bool:
    # Not isalnum(), to which the vowel signs of Bengali or Hindi are none: what is a word has one meaning here.
    return _WORD.match(character) is not None
