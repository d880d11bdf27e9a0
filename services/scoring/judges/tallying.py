"""From votes to metrics: pure functions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from services.scoring.judges.asking import Vote
from services.scoring.judges.rubric import FIRST, SECOND, TIE, Rubric

RESPONSE, BASELINE = "response", "baseline"
"""Who wins a comparison; the third outcome is ``TIE``."""

_WINNER_SHOWN_FIRST = {FIRST: RESPONSE, SECOND: BASELINE, TIE: TIE}
_WINNER_SHOWN_SECOND = {FIRST: BASELINE, SECOND: RESPONSE, TIE: TIE}
_WIN = {RESPONSE: 1.0, TIE: 0.5, BASELINE: 0.0}


@dataclass(frozen=True, slots=True)
class Tally:
    """What votes amount to.

    Attributes:
        metrics: by name; each from 0 to 1.
        votes: what each vote says, in words.
    """

    metrics: dict[str, float]
    votes: tuple[str, ...]


def tally_single(rubric: Rubric, votes: Sequence[Vote], *, pass_from: float) -> Tally:
    """Return the mean verdict, and how far the votes agree.

    Args:
        rubric: a single one.
        votes: at least one.
        pass_from: the lowest value that passes.
    """
    words = rubric.words
    low, high = rubric.bounds
    values = [words[each.word] for each in votes]
    metrics = {
        "score": (_mean(values) - low) / (high - low),
        "passed": _majority([value >= pass_from for value in values]),
        "agreement": pairwise_agreement([each.word for each in votes]),
    }
    if (expected := _expected(votes)) is not None:
        metrics["expected_score"] = (expected - low) / (high - low)
    return Tally(metrics, tuple(each.word for each in votes))


def tally_pairs(shown_first: Sequence[Vote], shown_second: Sequence[Vote]) -> Tally:
    """Return how far the response is preferred to the baseline, and how far its place decided that.

    A vote is a judge's verdicts in both orders. As in Zheng et al., Judging LLM-as-a-Judge, NeurIPS 2023, section
    3.4, a win counts only if both orders agree on it; else the vote is a tie.

    Args:
        shown_first: verdicts where the response stood first.
        shown_second: the same judges' and samples' verdicts where the baseline stood first; index-aligned.
    """
    orders = [
        (_WINNER_SHOWN_FIRST[first.word], _WINNER_SHOWN_SECOND[second.word])
        for first, second in zip(shown_first, shown_second, strict=True)
    ]
    winners = [one if one == other else TIE for one, other in orders]
    verdicts = [each.word for each in (*shown_first, *shown_second)]
    metrics = {
        "score": _mean([_WIN[winner] for winner in winners]),
        "passed": _majority([winner == RESPONSE for winner in winners]),
        "agreement": pairwise_agreement(winners),
        "position_inconsistent": _mean([float(one != other) for one, other in orders]),
        "first_preferred": _mean([{FIRST: 1.0, TIE: 0.5, SECOND: 0.0}[each] for each in verdicts]),
    }
    first, second = _expected(shown_first), _expected(shown_second)
    if first is not None and second is not None:
        metrics["expected_score"] = (first + 1 - second) / 2
    return Tally(metrics, tuple(winners))


def pairwise_agreement(votes: Sequence[str]) -> float:
    """Return the share of pairs of votes that say the same; 1 for a single vote."""
    pairs = list(itertools.combinations(votes, 2))
    return _mean([float(one == other) for one, other in pairs]) if pairs else 1.0


def _expected(votes: Sequence[Vote]) -> float | None:
    """Return the mean of the votes' expected values; ``None`` if one has none, lest the others speak for it."""
    values = [each.expected for each in votes if each.expected is not None]
    return _mean(values) if len(values) == len(votes) else None


def _majority(votes: Sequence[bool]) -> float:
    return float(2 * sum(votes) > len(votes))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
