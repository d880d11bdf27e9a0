"""Chooses the texts that a teacher is asked about next."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]


def choose_next(
    probabilities: NDArray[np.float64], count: int, random_share: float, chance: np.random.Generator
) -> Rows:
    """Return which candidates to label next: those that the student is least sure of, and some at random.

    Uncertainty sampling (Lewis & Gale, SIGIR 1994): the nearer the student's probability to 0.5, the less it is sure.
    Alone it would ask about one kind of doubt over and over and never notice what the student is wrongly sure of, so a
    share is drawn from the rest.

    Args:
        probabilities: the student's, float64 [candidates].
        count: how many to choose; all, if there are no more.
        random_share: from 0 to 1, of ``count``.
        chance: source of randomness; also decides between equals.
    """
    if count >= len(probabilities):
        return np.arange(len(probabilities))
    drawn = round(count * random_share)
    mixed = chance.permutation(len(probabilities))
    order = mixed[np.argsort(np.abs(probabilities[mixed] - 0.5), kind="stable")]
    unsure, rest = order[: count - drawn], order[count - drawn :]
    return np.concatenate([unsure, chance.choice(rest, size=drawn, replace=False)])
