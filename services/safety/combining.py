"""What verdicts on the windows of one long text say together. One that could not be judged is never lost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from services.runtime.usage import Usage
from services.safety.judgement import NO_USAGE, CategoryScore, Decision, Verdict

NOT_JUDGED: Final = "WINDOW_NOT_JUDGED"
NOT_EXPLAINED: Final = "HAZARD_UNEXPLAINED"
_SEVERITY: Final = {Decision.UNSAFE: 0, Decision.ERROR: 1, Decision.CONTROVERSIAL: 2, Decision.SAFE: 3}

OverWindows = Callable[[Sequence[float]], float]
"""The probability of a text from those of its windows."""


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what verdicts on the windows of one text say together: what the worst of them says.

    UNSAFE if any window is; else ERROR if any could not be judged; else what is worse of SAFE and CONTROVERSIAL.
    Probabilities are the largest of all. ``unjudged_reason`` says if a window may hold more than the categories tell.
    """
    if len(verdicts) == 1:
        return verdicts[0]
    decided = min(verdicts, key=lambda each: _SEVERITY[each.decision])
    known = [each.unsafe_probability for each in verdicts if each.unsafe_probability is not None]
    counts_categories = decided.decision in (Decision.UNSAFE, Decision.CONTROVERSIAL)
    return replace(
        decided,
        unsafe_probability=max(known) if known and decided.decision is not Decision.ERROR else None,
        categories=_largest(score for each in verdicts for score in each.categories) if counts_categories else (),
        unmapped=any(each.unmapped for each in verdicts),
        truncated=any(each.truncated for each in verdicts),
        refusal=_common(each.refusal for each in verdicts),
        over_refusal=_common(each.over_refusal for each in verdicts),
        cached=all(each.cached for each in verdicts),
        all_scores=_largest(score for each in verdicts for score in each.all_scores),
        windows=sum(each.windows for each in verdicts),
        unjudged_reason=next(filter(None, map(_unjudged, verdicts)), ""),
        usage=total_usage(verdicts),
    )


def total_usage(verdicts: Iterable[Verdict]) -> Usage:
    """Return what verdicts cost together."""
    return sum((each.usage for each in verdicts), NO_USAGE)


def _unjudged(verdict: Verdict) -> str:
    """Return why a window may hold any hazard; empty where its categories tell all."""
    if verdict.decision is Decision.ERROR:
        return verdict.error_reason or NOT_JUDGED
    is_flagged = verdict.decision in (Decision.UNSAFE, Decision.CONTROVERSIAL)
    return verdict.unjudged_reason or (NOT_EXPLAINED if is_flagged and not verdict.categories else "")


def _common(said: Iterable[bool | None]) -> bool | None:
    """Return what all say; None if they disagree, or one says nothing."""
    values = set(said)
    return values.pop() if len(values) == 1 else None


def _largest(scores: Iterable[CategoryScore]) -> tuple[CategoryScore, ...]:
    """Return each category once, with its largest probability, most probable first."""
    ranked = sorted(scores, key=_certainty, reverse=True)
    first = {(each.category.taxonomy, each.category.code): each for each in reversed(ranked)}
    return tuple(sorted(first.values(), key=_certainty, reverse=True))


def _certainty(score: CategoryScore) -> float:
    return score.probability or 0.0
