"""In which order the items of a list are drawn: weighted, without replacement, the same for the same seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Items = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Draws:
    """The next items to evaluate, in the order in which they are drawn.

    Attributes:
        first_draw_index: number of draws before these.
        items: their positions in the list.
        probabilities: of each draw, given those before it.
    """

    first_draw_index: int
    items: Items
    probabilities: Values


class ExponentialRace:
    """Draws item j next with probability proportional to its weight among those left.

    Every item runs towards a finish line at an exponential distance, at a speed that is its weight; who arrives next is
    drawn next. By the exponential's lack of memory, the speeds of those that are still running may be changed at any
    time, so weights can follow from earlier draws (Efraimidis & Spirakis, Weighted random sampling with a reservoir,
    Information Processing Letters 97, 2006, for fixed weights). The distances depend on the seed only: runs of one
    seed whose weights are alike draw much the same items first.

    Args:
        size: items in the list.
        seed: of the distances.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._left = np.ones(size, dtype=np.bool_)
        self._distances: Values = np.random.default_rng(seed).exponential(size=size)

    @property
    def left(self) -> Flags:
        """Which items are not drawn yet; a copy."""
        return self._left.copy()

    def draw(self, weights: Values, count: int) -> Items:
        """Draw up to ``count`` of the items that are left, and return them in order.

        Args:
            weights: above 0 and finite for all that are left, [items].
            count: at least 1.

        Raises:
            ValueError: a weight is not above 0 and finite.
        """
        left = np.flatnonzero(self._left)
        speeds = weights[left]
        if not (np.isfinite(speeds).all() and (speeds > 0).all()):
            raise ValueError("weights must be finite and above 0")
        times = self._distances[left] / speeds
        count = min(count, len(left))
        if count == 0:
            return np.empty(0, np.int64)
        first = np.argpartition(times, count - 1)[:count]
        order = first[np.argsort(times[first], kind="stable")]
        self._left[left[order]] = False
        running = np.flatnonzero(self._left)
        # Rounding must not carry anybody over the line.
        rest = self._distances[running] - weights[running] * times[order[-1]]
        self._distances[running] = np.maximum(rest, np.finfo(np.float64).tiny)
        return np.asarray(left[order], dtype=np.int64)
