"""Find the answer in a text by a regular expression, as lm-evaluation-harness's ``regex`` filter (0.4.13) does."""

from typing import Literal

from services.scoring.patterns import PatternMatcher

Take = Literal["first", "last"]


def find_candidates(matcher: PatternMatcher, pattern: str, text: str, group: int | None = None) -> list[str | None]:
    """Return what each match of ``pattern`` says, in order, without surrounding white space.

    Args:
        matcher: bounds the time.
        pattern: a checked regular expression.
        text: where to look.
        group: number of the group to take, from 1; ``None`` takes the first group that is not empty, or the whole
            match of a pattern without groups.

    Returns:
        One entry a match; ``None`` where several groups are all empty.
    """
    return [_chosen(groups, group) for groups in matcher.find_all(pattern, text)]


def take_answer(candidates: list[str | None], take: Take) -> str | None:
    """Return the first or last candidate; ``None`` if there is none."""
    if not candidates:
        return None
    return candidates[0] if take == "first" else candidates[-1]


def _chosen(groups: tuple[str, ...], group: int | None) -> str | None:
    if group is not None:
        return groups[group - 1].strip()
    if len(groups) == 1:
        return groups[0].strip()
    return next((text.strip() for text in groups if text), None)
