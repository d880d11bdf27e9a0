"""Is one model better than another, or no worse? Their differences on the same items are scores of their own."""

from typing import Final

import numpy as np

from services.aggregation.sequential.draws import Values
from services.aggregation.sequential.evidence import Evidence, terms_of
from services.aggregation.sequential.gate import Gate
from services.aggregation.sequential.questions import Decision, GateRule

# Of difference scores whose predictions know nothing: models that differ on two items of five.
_VARIANCE: Final = 0.1


def difference_scores(a: Values, b: Values) -> Values:
    """Return (b − a + 1) / 2 of each item: from 0 to 1, and one half where both score alike."""
    return np.asarray((b - a + 1) / 2)


def as_difference(score: float) -> float:
    """Return the difference of means, from −1 to 1, that goes with a mean difference score."""
    return 2 * score - 1


def difference_predictions(a: Values, b: Values) -> tuple[Values, Values]:
    """Return predictions of the difference scores and their variances, from those of both models' scores of 0 or 1."""
    return difference_scores(a, b), np.asarray((a * (1 - a) + b * (1 - b)) / 4)


def difference_rule(margin: float, alpha: float) -> GateRule:
    """Return the gate on difference scores that passes if B is at most ``margin`` below A on average.

    That is non-inferiority; with a margin of 0 it passes if B is at least as good. Both errors have probability
    ``alpha`` at most.
    """
    return GateRule((1 - margin) / 2, false_pass=alpha, false_fail=alpha)


def judge_differences(worst: Values, best: Values, size: int, rule: GateRule) -> Decision:
    """Judge the difference scores of the first draws of a uniform order without replacement.

    Args:
        worst: in draw order, the lowest that failed items may have had.
        best: the same with the highest.
        size: items in the whole list.
        rule: what is asked of the mean difference score.
    """
    count = len(worst)
    half, items = np.full(size, 0.5), np.arange(count)
    terms = terms_of(items, np.arange(size) >= count, half, np.ones(size), np.full(size, _VARIANCE))
    gate = Gate(rule, size)
    gate.update(Evidence(size).observe(worst, terms), Evidence(size).observe(best, terms))
    return gate.decision


def beats(b: tuple[float, float], a: tuple[float, float]) -> bool | None:
    """Say whether B beats A by their ranges, each of half the error probability: None while the ranges overlap.

    Args:
        b: lower and upper end of B's range.
        a: of A's.
    """
    if b[0] > a[1]:
        return True
    return False if b[1] < a[0] else None
