"""With which probabilities the items of a run were drawn: what lets a part of them speak for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.aggregation.drawings.records import Batch

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DrawOrder:
    """The draws of a task, one entry a draw, in draw order.

    Attributes:
        size: items in the list.
        inflations: how many times rarer than by chance alone the drawn item was, (weight left) / (its weight · items
            left).
        largest: the largest inflation that the draw could have had; known before it.
        is_uniform: every item was as likely as the others, so that both are 1.
    """

    size: int
    inflations: Values
    largest: Values
    is_uniform: bool


def uniform_order(size: int, count: int) -> DrawOrder:
    """Return the order of ``count`` draws in which every item that is left is as likely as the others."""
    return DrawOrder(size, np.ones(count), np.ones(count), is_uniform=True)


def order_of(size: int, batches: Sequence[Batch]) -> DrawOrder:
    """Return the order that the batches of a drawing make.

    Args:
        size: items in the list.
        batches: from the first on.
    """
    left = np.ones(size, dtype=np.bool_)
    parts: list[tuple[Values, Values]] = []
    for batch in batches:
        count = len(batch.positions)
        if batch.weights is None or not count:
            parts.append((np.ones(count), np.ones(count)))
        else:
            weights = batch.weights.astype(np.float64)
            drawn = weights[batch.positions]
            # Before each draw: what it and all behind it weigh, and how many they are.
            weight_left = float(weights[left].sum()) - np.concatenate(([0.0], np.cumsum(drawn)[:-1]))
            average = np.maximum(weight_left, drawn) / (int(left.sum()) - np.arange(count))
            parts.append((average / drawn, average / float(weights[left].min())))
        left[batch.positions] = False
    return DrawOrder(
        size=size,
        inflations=np.concatenate([np.empty(0), *(each for each, _ in parts)]),
        largest=np.concatenate([np.empty(0), *(each for _, each in parts)]),
        is_uniform=all(each.weights is None for each in batches),
    )
