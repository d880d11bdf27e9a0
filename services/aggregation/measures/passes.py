"""pass@k and pass^k from n samples an item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from services.aggregation.intervals import Interval, interval_of, mean_of

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


@dataclass(frozen=True, slots=True)
class PassRates:
    """How items with several samples do when a sample is drawn k times.

    Attributes:
        k: number of samples.
        any_of: mean over items of the probability that at least one of k samples succeeds (pass@k).
        all_of: the same for all of k samples (pass^k).
        any_interval, all_interval: of these means, where the items are a sample of all questions of their kind;
            ``None`` where no method has one.
        item_count: items behind them.
    """

    k: int
    any_of: float
    all_of: float
    any_interval: Interval | None
    all_interval: Interval | None
    item_count: int


def pass_rates(items: Mapping[tuple[int, int], int], confidence_level: float) -> tuple[PassRates, ...]:
    """Return the rates for k = 1, 2, 4, … up to the samples that every item has, and for these themselves.

    Args:
        items: how many items have (successes, samples).
        confidence_level: of the intervals.
    """
    if not items:
        return ()
    counts = list(items.values())
    successes = [right for right, _ in items]
    samples = [count for _, count in items]
    fewest = min(samples)
    rates = []
    for k in sorted({2**power for power in range(fewest.bit_length())} | {fewest}):
        any_of = np.repeat(pass_at_k(successes, samples, k), counts)
        all_of = np.repeat(pass_power_k(successes, samples, k), counts)
        rates.append(
            PassRates(
                k,
                mean_of(any_of.tolist()),
                mean_of(all_of.tolist()),
                interval_of(any_of.tolist(), confidence_level),
                interval_of(all_of.tolist(), confidence_level),
                len(any_of),
            )
        )
    return tuple(rates)


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
