"""What a judge's answer says: read strictly, and never guessed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.scoring.judges.errors import JudgeUnparsableError
from services.scoring.judges.rendering import VERDICT_LABEL
from services.scoring.judges.rubric import Rubric

_LINE: Final = re.compile(rf"^[^\S\n]*{re.escape(VERDICT_LABEL)}", re.MULTILINE)
_LAST_LINE: Final = re.compile(rf"(?:\A\s*|\n)(?P<label>{re.escape(VERDICT_LABEL)} )(?P<word>\S{{1,32}})\s*\Z")
_SHOWN_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Statement:
    """A verdict, and how the answer came to it.

    Attributes:
        word: the verdict.
        reasons: the answer's text before the line of the verdict, without white space at its end.
        label: what stands between the reasons, or the beginning of the answer, and the verdict.
    """

    word: str
    reasons: str
    label: str


def read_verdict(rubric: Rubric, text: str, *, is_complete: bool) -> Statement:
    """Read an answer.

    Raises:
        JudgeUnparsableError: it was cut off, has no line with the verdict at its end, has several, says what is no
            verdict of the rubric, or gives reasons that were not asked for.
    """
    if not is_complete:
        # What was cut off could have been another verdict, or taken this one back.
        raise _unparsable("the answer was cut off at its longest length", text)
    count = len(_LINE.findall(text))
    if count != 1:
        raise _unparsable(f"the answer has {count or 'no'} lines that begin with {VERDICT_LABEL!r}", text)
    match = _LAST_LINE.search(text)
    if match is None:
        raise _unparsable("the answer does not end with a line that holds the verdict alone", text)
    if match["word"] not in rubric.words:
        raise _unparsable(f"{match['word']!r} is none of the verdicts {', '.join(rubric.words)}", text)
    reasons = text[: match.start("label")].rstrip()
    if reasons and not rubric.reasoning:
        raise _unparsable("the answer is more than the verdict that was asked for", text)
    if not reasons:
        return Statement(match["word"], "", text[: match.end("label")])
    return Statement(match["word"], reasons, text[len(reasons) : match.end("label")])


def expected_value(rubric: Rubric, log_likelihoods: Sequence[float]) -> float | None:
    """Return the mean of the verdicts' values, weighted by their probabilities among the verdicts.

    The weighting of scores by token probabilities follows Liu et al., G-Eval, EMNLP 2023, section 2.

    Args:
        rubric: names the verdicts.
        log_likelihoods: of each verdict in the rubric's order, natural logarithms.

    Returns:
        ``None`` where they say nothing: NaN among them, or each is impossible.
    """
    highest = max(log_likelihoods)
    if any(math.isnan(each) for each in log_likelihoods) or not math.isfinite(highest):
        return None
    weights = [math.exp(each - highest) for each in log_likelihoods]
    values = rubric.words.values()
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def _unparsable(problem: str, text: str) -> JudgeUnparsableError:
    end = text[-_SHOWN_CHARACTERS:]
    return JudgeUnparsableError(
        f"the judge's answer is no verdict: {problem}; it ends with {end!r}", metadata={"problem": problem[:200]}
    )
