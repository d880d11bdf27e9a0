"""Exact match of a text with accepted answers, by lm-evaluation-harness's definition."""

import string
from typing import ClassVar, Self

from pydantic import Field, model_validator

from services.scoring.contract import (
    MetricDescription,
    Output,
    SamplesOutput,
    Score,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
)
from services.scoring.extraction import Take, find_candidates, take_answer
from services.scoring.filters import MAX_FILTERS, Filter, RegexFilter, filtered_answer
from services.scoring.patterns import PatternMatcher, PatternText, compile_pattern
from services.scoring.requirements import require_targets, require_text

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WITHOUT_DIGITS = str.maketrans("", "", string.digits)


class ExactMatchParameters(ScorerParameters):
    """How the answer is found and what is ignored when it is compared."""

    added_later: ClassVar[frozenset[str]] = frozenset({"filters"})
    pattern: PatternText | None = Field(
        None, description="Regular expression that finds the answer in the output; absent: the whole output."
    )
    group: int | None = Field(
        None,
        ge=1,
        description="Group of the pattern that is the answer, from 1; "
        "absent: the first group that is not empty, or the whole match of a pattern without groups.",
    )
    take: Take = Field("first", description="Which match is the answer: first or last.")
    fallback: str = Field("[invalid]", description="What is compared when the pattern matches nowhere.")
    strip: bool = Field(False, description="Drop white space around the answer and the targets before comparing.")
    ignore_case: bool = Field(False, description="Compare in lower case.")
    ignore_punctuation: bool = Field(False, description="Drop ASCII punctuation before comparing.")
    ignore_numbers: bool = Field(False, description="Drop the digits 0 to 9 before comparing.")
    regexes_to_ignore: tuple[PatternText, ...] = Field(
        (),
        max_length=32,
        description="Drop what these regular expressions match, one after the other, before anything else.",
    )
    filters: tuple[Filter, ...] = Field(
        (),
        max_length=MAX_FILTERS,
        description="Finds the answer in steps instead of by one pattern: lm-evaluation-harness's filters by name "
        "(regex, map, lowercase, uppercase, remove_whitespace, take_first, take_first_k, majority_vote) with their own "
        'parameters, such as {"function": "regex", "regex_pattern": "answer is (.)", "group_select": -1}.',
    )

    @model_validator(mode="after")
    def _finds_in_one_way(self) -> Self:
        if self.filters and self.pattern is not None:
            raise ValueError("filters and pattern both find the answer; give one of them")
        if self.group is not None:
            groups = compile_pattern(self.pattern).groups if self.pattern is not None else 0
            if self.group > groups:
                raise ValueError(f"group is {self.group}, and pattern has {groups} groups")
        return self

    def unused_libraries(self) -> frozenset[str]:
        """Return ``regex`` where there is no pattern."""
        uses_patterns = (
            self.pattern is not None
            or self.regexes_to_ignore
            or any(isinstance(each, RegexFilter) for each in self.filters)
        )
        return frozenset() if uses_patterns else frozenset({"regex"})


class ExactMatch:
    """1 if the answer equals an accepted answer, after both lost what the parameters ignore."""

    about = ScorerDescription(
        name="exact_match",
        version="1",
        description="Exact match with any accepted answer. Comparison and extraction follow lm-evaluation-harness "
        "0.4.13 (exact_match, and the regex filter with group_select 0 or -1); what is ignored goes in its order: "
        "regexes_to_ignore, case, punctuation, numbers.",
        metrics=(MetricDescription("exact_match", "1 if the answer equals one of the targets, else 0."),),
        libraries=("regex",),
    )
    parameters_type = ExactMatchParameters

    def score(self, parameters: ExactMatchParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text, or what filters leave of several samples; raises what ``Scorer.score`` says."""
        targets = require_targets(self.about.name, item)
        matcher = PatternMatcher()
        answer = self._answer(matcher, parameters, output)
        if answer is not None and parameters.strip:
            answer = answer.strip()
        compared = _normalised(matcher, parameters, parameters.fallback if answer is None else answer)
        is_match = any(compared == _normalised(matcher, parameters, target) for target in targets)
        return Score({"exact_match": float(is_match)}, answer)

    def _answer(self, matcher: PatternMatcher, parameters: ExactMatchParameters, output: Output) -> str | None:
        if parameters.filters and isinstance(output, SamplesOutput) and output.texts:
            return filtered_answer(parameters.filters, output.texts, matcher)
        text = require_text(self.about.name, output)
        if parameters.filters:
            return filtered_answer(parameters.filters, (text,), matcher)
        if parameters.pattern is None:
            return text
        return take_answer(find_candidates(matcher, parameters.pattern, text, parameters.group), parameters.take)


def _normalised(matcher: PatternMatcher, parameters: ExactMatchParameters, text: str) -> str:
    if parameters.strip:
        text = text.strip()
    for pattern in parameters.regexes_to_ignore:
        text = matcher.remove_all(pattern, text)
    if parameters.ignore_case:
        text = text.lower()
    if parameters.ignore_punctuation:
        text = text.translate(_WITHOUT_PUNCTUATION)
    if parameters.ignore_numbers:
        text = text.translate(_WITHOUT_DIGITS)
    return text
