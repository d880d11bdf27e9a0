"""Pipelines that find the answer in what a model gave, with lm-evaluation-harness's filters (0.4.13) by their names."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from services.scoring.extraction import find_candidates
from services.scoring.patterns import PatternMatcher, PatternText

MAX_FILTERS = 32

Answers: TypeAlias = list[str | None]
"""One answer a sample, in their order; ``None``: there is none."""


class _Filter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RegexFilter(_Filter):
    """Takes what a regular expression finds, without surrounding white space."""

    function: Literal["regex"]
    regex_pattern: PatternText = Field(r"#### (\-?[0-9\.\,]+)", description="The regular expression.")
    group_select: int = Field(0, description="Which match, from 0; -1 is the last.")
    fallback: str = Field("[invalid]", description="The answer where nothing is found.")

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Find the answer in each; an absent one counts as an empty text."""
        return [self._find(answer or "", matcher) for answer in answers]

    def _find(self, text: str, matcher: PatternMatcher) -> str:
        candidates = find_candidates(matcher, self.regex_pattern, text)
        if not -len(candidates) <= self.group_select < len(candidates):
            return self.fallback
        chosen = candidates[self.group_select]
        return self.fallback if chosen is None else chosen


class MapFilter(_Filter):
    """Takes what a table says of each answer."""

    function: Literal["map"]
    mapping_dict: dict[str, str] = Field(
        default_factory=dict, max_length=1000, description="What becomes of which answer."
    )
    default_value: str | None = Field(None, description="What becomes of others; absent: they are no answers.")

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Look each up."""
        return [
            self.default_value if answer is None else self.mapping_dict.get(answer, self.default_value)
            for answer in answers
        ]


class LetterCaseFilter(_Filter):
    """Changes letters to lower or upper case."""

    function: Literal["lowercase", "uppercase"]

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Change each."""
        change = str.lower if self.function == "lowercase" else str.upper
        return [None if answer is None else change(answer) for answer in answers]


class WhiteSpaceFilter(_Filter):
    """Drops white space around each answer."""

    function: Literal["remove_whitespace"]

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Strip each."""
        return [None if answer is None else answer.strip() for answer in answers]


class TakeFirstFilter(_Filter):
    """Leaves the first sample's answer."""

    function: Literal["take_first"]

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Leave one."""
        return answers[:1]


class TakeFirstKFilter(_Filter):
    """Leaves the first samples' answers."""

    function: Literal["take_first_k"]
    k: int = Field(ge=1, description="How many.")

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Leave at most ``k``."""
        return answers[: self.k]


class MajorityVoteFilter(_Filter):
    """Leaves the answer that most samples have; of equals the one that came first."""

    function: Literal["majority_vote"]

    def apply(self, answers: Answers, matcher: PatternMatcher) -> Answers:
        """Leave one; that there is no answer is a vote too."""
        return [Counter(answers).most_common(1)[0][0]]


Filter: TypeAlias = Annotated[
    RegexFilter
    | MapFilter
    | LetterCaseFilter
    | WhiteSpaceFilter
    | TakeFirstFilter
    | TakeFirstKFilter
    | MajorityVoteFilter,
    Field(discriminator="function"),
]
"""A step of a pipeline, told from the others by ``function``."""


def filtered_answer(filters: Sequence[Filter], samples: Sequence[str], matcher: PatternMatcher) -> str | None:
    """Return what a pipeline leaves of an item's samples: the first answer, as if ``take_first`` stood at its end.

    Args:
        filters: in the order in which they are applied.
        samples: at least one.
        matcher: bounds the time of all patterns together.

    Raises:
        PatternTimeoutError: a pattern takes too long.
    """
    answers: Answers = list(samples)
    for each in filters:
        answers = each.apply(answers, matcher)
    return answers[0]
