"""Rankings replayed on real models' results: what finding the best k takes, and how often it is wrong."""

from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions.matrices import Matrix
from services.aggregation.sequential.elimination import SuccessiveElimination

Values = NDArray[np.float64]

BLOCK: Final = 16
"""Draws between two looks, as the service looks."""
TOLERANCE: Final = 0.01
"""How much worse than others the named may be, in the second of two rankings."""
_CRITICAL: Final = 1.645
_FIRST_LOOK: Final = 32


@dataclass(slots=True)
class Rankings:
    """What some rankings came to.

    Attributes:
        shares: items asked of all models, over those of full runs.
        wrong: whether a model that belongs to the best was out.
        tolerant_shares: the same shares where the named may be worse than others by ``TOLERANCE``.
        tolerant_wrong: whether a model was named then that is worse than the k-th best by more than that.
        peeking_shares: the same shares of a z-test of each pair, repeated after every 16 items.
        peeking_wrong: and its errors.
    """

    shares: list[float] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    tolerant_shares: list[float] = field(default_factory=list)
    tolerant_wrong: list[bool] = field(default_factory=list)
    peeking_shares: list[float] = field(default_factory=list)
    peeking_wrong: list[bool] = field(default_factory=list)

    def extend(self, other: "Rankings") -> None:
        """Add another's."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))


def replay_rankings(matrix: Matrix, *, models: int, keep: int, orders: int, seed: int, alpha: float) -> Rankings:
    """Rank random sets of models, each in a fresh order.

    Args:
        matrix: the scores.
        models: in a set, fewer if the matrix has not so many.
        keep: how many are wanted.
        orders: rankings.
        seed: of sets and orders.
        alpha: error probability that is promised.
    """
    chance, found = np.random.default_rng(seed), Rankings()
    count, size = min(models, len(matrix.scores)), matrix.scores.shape[1]
    for _ in range(orders):
        chosen = chance.choice(len(matrix.scores), count, replace=False)
        scores = matrix.scores[chosen][:, chance.permutation(size)]
        race = _raced(scores, keep, alpha)
        found.shares.append(_asked(race) / (count * size))
        found.wrong.append(is_wrong(scores, race.active, keep))
        race = _raced(scores, keep, alpha, TOLERANCE)
        found.tolerant_shares.append(_asked(race) / (count * size))
        found.tolerant_wrong.append(is_wrong(scores, race.named, keep, TOLERANCE))
        active, peeked = _peeked(scores, keep)
        found.peeking_shares.append(peeked / (count * size))
        found.peeking_wrong.append(is_wrong(scores, active, keep))
    return found


def is_wrong(scores: Values, is_in: NDArray[np.bool_], keep: int, tolerance: float = 0.0) -> bool:
    """Whether a model is out that is better than the k-th best of all that are in, by more than a tolerance."""
    means = scores.mean(axis=1)
    return bool((means[~is_in] > np.sort(means[is_in])[::-1][keep - 1] + tolerance + 1e-12).any())


def _asked(race: SuccessiveElimination) -> int:
    """Items that all models of a race were asked."""
    return sum(race.count if each is None else each for each in race.dropped_after)


def _raced(scores: Values, keep: int, alpha: float, tolerance: float = 0.0) -> SuccessiveElimination:
    race = SuccessiveElimination(scores.shape[1], len(scores), keep=keep, alpha=alpha, tolerance=tolerance)
    while not race.is_done:
        race.observe(scores[:, race.count : race.count + BLOCK])
    return race


def _peeked(scores: Values, keep: int) -> tuple[NDArray[np.bool_], int]:
    """Drop whoever is significantly worse than k others by a paired z-test at one look; return who is in, and items."""
    models, size = scores.shape
    active, asked, before = np.ones(models, np.bool_), 0, 0
    sums = np.cumsum(scores, axis=1)
    for count in [*range(_FIRST_LOOK, size, BLOCK), size]:
        asked += int(active.sum()) * (count - before)
        before = count
        seen, means = scores[:, :count], sums[:, count - 1] / count
        differences = means[:, None] - means[None, :]
        squares = (seen @ seen.T) / count
        own = np.diag(squares)
        variance = np.maximum(own[:, None] + own[None, :] - 2 * squares - differences**2, 1e-9)
        errors = np.sqrt(variance / count * max(size - count, 0) / max(size - 1, 1))
        better = (differences > np.maximum(_CRITICAL * errors, 1e-12)) & active[:, None] & active[None, :]
        active &= better.sum(axis=0) < keep
        if active.sum() <= keep:
            break
    return active, asked
