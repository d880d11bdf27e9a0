"""Whether a text matches a regular expression."""

from pydantic import Field

from services.runtime.errors import FieldViolation
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.patterns import Anchoring, PatternMatcher, PatternText, compile_pattern
from services.scoring.requirements import require_targets, require_text


class RegexMatchParameters(ScorerParameters):
    """What is looked for, and where."""

    pattern: PatternText | None = Field(
        None, description="The regular expression; absent: each target is one, and any of them may match."
    )
    method: Anchoring = Field(
        "search",
        description="As Python's re: search finds a match anywhere, match at the start, fullmatch of the whole text.",
    )
    ignore_case: bool = Field(False, description="Letters match in either case.")
    strip: bool = Field(False, description="Drop white space around the text first.")


class RegexMatch:
    """1 if the text matches."""

    about = ScorerDescription(
        name="regex_match",
        version="1",
        description="Matches the text with regular expressions, which are read as Python's re reads them and bounded "
        "in time. To compare what a pattern finds with targets, use exact_match with a pattern or filters.",
        metrics=(MetricDescription("regex_match", "1 if a pattern matches, else 0."),),
        libraries=("regex",),
    )
    parameters_type = RegexMatchParameters

    def score(self, parameters: RegexMatchParameters, item: ScoringItem, output: Output) -> Score:
        """Match one text; the answer is the match, or its first group that is not empty.

        Raises what ``Scorer.score`` says.
        """
        text = require_text(self.about.name, output)
        if parameters.strip:
            text = text.strip()
        matcher = PatternMatcher()
        patterns = self._patterns(matcher, parameters, item)
        for pattern in patterns:
            groups = matcher.find_first(pattern, text, anchoring=parameters.method, ignore_case=parameters.ignore_case)
            if groups is not None:
                return Score({"regex_match": 1.0}, next((group for group in groups if group), ""))
        return Score({"regex_match": 0.0}, None)

    def _patterns(
        self, matcher: PatternMatcher, parameters: RegexMatchParameters, item: ScoringItem
    ) -> tuple[str, ...]:
        if parameters.pattern is not None:
            return (parameters.pattern,)
        violations = []
        for index, target in enumerate(require_targets(self.about.name, item)):
            matcher.check(target)
            try:
                compile_pattern(target)
            except ValueError as error:
                violations.append(FieldViolation(f"targets[{index}]", str(error)))
        if violations:
            raise InvalidScoreRequestError(self.about.name, *violations)
        return item.targets
