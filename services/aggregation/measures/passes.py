"""pass@k and pass^k from n samples an item."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Values = NDArray[np.float64]


def pass_at_k(successes: Sequence[int], samples: Sequence[int], k: int) -> Values:
    """Return for each item the probability that at least one of k samples succeeds, without bias.

    1 − C(n − c, k) / C(n, k), the share of k-subsets of the n samples with a success in them (Chen et al., Evaluating
    large language models trained on code, arXiv 2107.03374, 2021). 1 − (1 − c/n)^k would be too small.

    Args:
        successes: c of each item.
        samples: n of each item, at least k.
        k: at least 1.

    Raises:
        ValueError: an item has fewer than k samples, or more successes than samples.
    """
    right, count = _checked(successes, samples, k)
    return np.asarray(1.0 - _share_without(count - right, count, k))


def pass_power_k(successes: Sequence[int], samples: Sequence[int], k: int) -> Values:
    """Return for each item the probability that all of k samples succeed (pass^k), without bias: C(c, k) / C(n, k).

    Source: Yao et al., τ-bench, arXiv 2406.12045, 2024.

    Args:
        successes: c of each item.
        samples: n of each item, at least k.
        k: at least 1.

    Raises:
        ValueError: an item has fewer than k samples, or more successes than samples.
    """
    right, count = _checked(successes, samples, k)
    return _share_without(right, count, k)


def _checked(successes: Sequence[int], samples: Sequence[int], k: int) -> tuple[Values, Values]:
    right, count = np.asarray(successes, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if k < 1 or (count < k).any():
        raise ValueError(f"every item needs at least k = {k} samples")
    if (right < 0).any() or (right > count).any():
        raise ValueError("successes must be from 0 to the number of samples")
    return right, count


def _share_without(chosen: Values, count: Values, k: int) -> Values:
    """Return C(chosen, k) / C(count, k); 0 where fewer than k can be chosen."""
    able = chosen >= k
    kept = np.where(able, chosen, k)
    logs = gammaln(kept + 1) - gammaln(kept - k + 1) - gammaln(count + 1) + gammaln(count - k + 1)
    return np.where(able, np.minimum(1.0, np.exp(logs)), 0.0)
