"""What can be asked of a list, and the answers' states."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Direction(Enum):
    """Which side of its threshold a gate wants the mean on."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


class DecisionState(Enum):
    """What is known of a question."""

    UNDECIDED = "undecided"
    PASSED = "passed"
    FAILED = "failed"
    REACHED = "reached"


@dataclass(frozen=True, slots=True)
class GateRule:
    """Is the mean at least (or at most) a threshold?

    Attributes:
        threshold: the mean must not be beyond this.
        direction: on which side of it the mean must be.
        false_pass: largest probability of ever passing when it is not.
        false_fail: largest probability of ever failing when it is. Only one of the two errors can occur.
    """

    threshold: float
    direction: Direction = Direction.AT_LEAST
    false_pass: float = 0.05
    false_fail: float = 0.05


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """What is the mean, give or take a half-width?

    Attributes:
        half_width: half the range's width at which the question is answered.
        alpha: largest probability that the range ever misses the mean.
    """

    half_width: float
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class RareRule:
    """Is the share of violations (scores of 1) below a small limit? Needs uniform draws.

    Attributes:
        limit: the share must be below this.
        false_pass: largest probability of ever passing when it is not.
        false_fail: largest probability of ever failing when it is.
    """

    limit: float
    false_pass: float = 0.05
    false_fail: float = 0.05


Question = GateRule | PrecisionRule | RareRule


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a question so far.

    Attributes:
        state: what is known.
        decided_after: number of draws after which it was; None if it is not.
        log_evidence_pass: logarithm of the capital of the bets on passing; 0 for a precision question.
        log_evidence_fail: of those on failing.
        is_exact: the draws that are left could not have changed the answer, however they score.
    """

    state: DecisionState
    decided_after: int | None
    log_evidence_pass: float
    log_evidence_fail: float
    is_exact: bool


def split_alpha(alpha: float, weights: Sequence[float]) -> list[float]:
    """Split an error probability over questions so that the chance of any error is at most ``alpha`` (Bonferroni).

    Args:
        alpha: of all questions together.
        weights: of each question, above 0.

    Raises:
        ValueError: a weight is not above 0.
    """
    if not weights or min(weights) <= 0:
        raise ValueError("needs at least one weight, all above 0")
    return [alpha * each / sum(weights) for each in weights]
