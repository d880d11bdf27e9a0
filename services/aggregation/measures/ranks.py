"""Do two rankings of the same checkpoints agree?"""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def kendall_tau_b(a: Values, b: Values) -> float:
    """Return Kendall's τ_b, in which ties count for neither side; NaN if either is all ties.

    Source: Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945.

    Args:
        a: one number a checkpoint.
        b: another number for each of the same checkpoints.
    """
    first, second = np.sign(a[:, None] - a[None, :]), np.sign(b[:, None] - b[None, :])
    spread = math.sqrt(float((first != 0).sum()) * float((second != 0).sum()))
    return float((first * second).sum()) / spread if spread else math.nan


def spearman_rho(a: Values, b: Values) -> float:
    """Return Spearman's ρ, the correlation of mean ranks; NaN if either is all ties.

    Source: Spearman, The proof and measurement of association, American Journal of Psychology 15, 1904.

    Args:
        a: one number a checkpoint.
        b: another number for each of the same checkpoints.
    """
    first, second = _mean_ranks(a), _mean_ranks(b)
    first, second = first - first.mean(), second - second.mean()
    spread = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else math.nan


def _mean_ranks(values: Values) -> Values:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, dtype=np.float64)
