"""The interval of a difference of two shares on the same items."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

from services.aggregation.intervals import Interval

_HALVINGS: Final = 60


def paired_score_interval(variant_only: int, base_only: int, count: int, confidence_level: float) -> Interval:
    """Score interval of the difference of two paired proportions; honest where the runs agree on every item.

    All Δ that a score test does not reject: (b − c − nΔ)² ≤ z² n (2 p̃ + Δ(1 − Δ)), p̃ being the likeliest share of items
    that only the base gets right under Δ (Tango, Statistics in Medicine 17, 1998; recommended by Fagerland, Lydersen &
    Laake, Statistics in Medicine 33, 2014).

    Args:
        variant_only: items that only the variant gets right, b.
        base_only: items that only the base gets right, c.
        count: all items, n, at least 1.
        confidence_level: between 0 and 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    middle = (variant_only - base_only) / count

    def is_inside(difference: float) -> bool:
        return abs(_score(variant_only, base_only, count, difference)) <= z

    return Interval(_end(middle, -1.0, is_inside), _end(middle, 1.0, is_inside), confidence_level, "tango")


def _score(variant_only: int, base_only: int, count: int, difference: float) -> float:
    linear = -variant_only - base_only + (2 * count - variant_only + base_only) * difference
    constant = -base_only * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * count * constant))
    # The larger root of the quadratic, in the form that does not cancel.
    share = (root - linear) / (4 * count) if linear <= 0 else -2 * constant / (root + linear)
    variance = count * (2 * share + difference * (1 - difference))
    distance = variant_only - base_only - count * difference
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-9 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _end(inside: float, outside: float, is_inside: Callable[[float], bool]) -> float:
    """Find by halving where the interval ends between a point in it and the end of the scale."""
    if is_inside(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return inside
