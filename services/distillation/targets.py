"""Checks what a student is to learn."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.runtime.errors import InvalidArgumentError


def checked_targets(label: str, values: ArrayLike, count: int) -> NDArray[np.float64]:
    """Return the targets of a label as float64 [texts].

    Raises:
        InvalidArgumentError: TARGETS_INVALID: they are not as many as the texts, or no shares; TARGETS_ONE_SIDED: all
            are on one side of 0.5.
    """
    targets = np.asarray(values, dtype=np.float64)
    if targets.shape != (count,):
        raise InvalidArgumentError(f"{label}: {targets.size} targets for {count} texts", reason="TARGETS_INVALID")
    if not ((targets >= 0) & (targets <= 1)).all():
        raise InvalidArgumentError(f"{label}: targets must be from 0 to 1", reason="TARGETS_INVALID")
    if not ((targets >= 0.5).any() and (targets < 0.5).any()):
        raise InvalidArgumentError(
            f"{label}: the targets are all on one side of 0.5, so there is nothing to tell apart",
            reason="TARGETS_ONE_SIDED",
        )
    return targets
