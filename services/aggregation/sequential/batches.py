"""With what the next items of a list are drawn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.aggregation.sequential.draws import Values

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """What draws are made with; these arrays, the seed and the batches before say exactly which draws follow.

    Attributes:
        first_draw_index: number of draws before its first.
        count: draws in it.
        predictions: of all items, float32; None for none.
        weights: of all items, float32; None for uniform draws.
        variances: of all items around their predictions, float32; None for f (1 − f).
    """

    first_draw_index: int
    count: int
    predictions: Singles | None
    weights: Singles | None
    variances: Singles | None


def singles(values: Singles | Values | None, size: int) -> Singles | None:
    """Return numbers as they are kept, one an item.

    Raises:
        ValueError: there are not so many.
    """
    if values is None:
        return None
    if values.shape != (size,):
        raise ValueError("needs one number an item")
    return values.astype(np.float32)


def doubles(values: Singles | None, size: int, default: float) -> Values:
    """Return numbers as they are computed with; a default where there are none."""
    return np.full(size, default) if values is None else values.astype(np.float64)
