"""The numbers of one comparison: how large the difference is, how sure, and whether it may be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from services.aggregation.comparison.score_interval import paired_score_interval
from services.aggregation.intervals import Interval
from services.aggregation.measures.clusters import clustered_standard_error
from services.aggregation.measures.paired import mcnemar_exact, sign_flip_p_value

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

_POWER: Final = 0.8


@dataclass(frozen=True, slots=True)
class Difference:
    """Variant − base. What no method has is None.

    Attributes:
        item_count: pairs, or the items of both samples together.
        interval: on more questions of this kind.
        cluster_count: None without clusters.
        least_detectable: true difference that would be found in four of five such comparisons.
    """

    item_count: int
    base_value: float | None = None
    variant_value: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    standard_error: float | None = None
    cluster_count: int | None = None
    p_value: float | None = None
    p_value_method: str = ""
    effect_size: float | None = None
    least_detectable: float | None = None
    variant_higher_count: int = 0
    base_higher_count: int = 0


def paired(base: Values, variant: Values, clusters: Numbers | None, confidence_level: float) -> Difference:
    """Compare on the same items.

    Where every value is 0 or 1 and items are on their own, the interval is Tango's and the test McNemar's exact one,
    which is what flipping signs comes to there; else Student's t (over clusters if there are any) and a permutation
    test that flips the signs of items or of whole clusters.

    Args:
        base: values of the base, [n].
        variant: values of the variant on the same items.
        clusters: of the items, numbered; None if each is on its own.
        confidence_level: of the interval.
    """
    count = len(base)
    if not count:
        return Difference(0)
    differences = variant - base
    higher, lower = int((differences > 0).sum()), int((differences < 0).sum())
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    error: float | None = deviation / math.sqrt(count) if count > 1 else None
    groups, flipped, method = count, differences, "sign-flip-permutation"
    if clusters is not None:
        _, numbered = np.unique(clusters, return_inverse=True)
        groups = int(numbered.max()) + 1
        error = clustered_standard_error(differences, numbered)
        flipped = np.bincount(numbered, weights=differences).astype(np.float64)
        method = "cluster-sign-flip-permutation"
    mean = float(differences.mean())
    is_whole = clusters is None and _is_whole(base) and _is_whole(variant)
    return Difference(
        item_count=count,
        base_value=float(base.mean()),
        variant_value=float(variant.mean()),
        difference=mean,
        interval=(
            paired_score_interval(higher, lower, count, confidence_level)
            if is_whole
            else _t_interval(
                mean, error, groups - 1, confidence_level, "paired-t" if clusters is None else "clustered-t"
            )
        ),
        standard_error=error,
        cluster_count=None if clusters is None else groups,
        p_value=mcnemar_exact(lower, higher) if is_whole else sign_flip_p_value(flipped),
        p_value_method="mcnemar-exact" if is_whole else method,
        effect_size=mean / deviation if deviation else None,
        least_detectable=_least_detectable(error, confidence_level),
        variant_higher_count=higher,
        base_higher_count=lower,
    )


def unpaired(base: Values, variant: Values, confidence_level: float) -> Difference:
    """Compare as two samples, by Welch's t (Biometrika 34, 1947), whose degrees of freedom are Satterthwaite's.

    Args:
        base: values of the base.
        variant: values of the variant, on whichever items.
        confidence_level: of the interval.
    """
    counts = len(base), len(variant)
    if not min(counts):
        return Difference(
            sum(counts),
            base_value=float(base.mean()) if counts[0] else None,
            variant_value=float(variant.mean()) if counts[1] else None,
        )
    mean = float(variant.mean() - base.mean())
    plain = Difference(sum(counts), float(base.mean()), float(variant.mean()), mean)
    if min(counts) < 2:
        return plain
    variances = float(base.var(ddof=1)), float(variant.var(ddof=1))
    shares = [variance / count for variance, count in zip(variances, counts, strict=True)]
    error = math.sqrt(sum(shares))
    if not error:
        return plain
    freedom = error**4 / sum(share**2 / (count - 1) for share, count in zip(shares, counts, strict=True))
    pooled = math.sqrt(
        sum(variance * (count - 1) for variance, count in zip(variances, counts, strict=True)) / (sum(counts) - 2)
    )
    return Difference(
        item_count=sum(counts),
        base_value=plain.base_value,
        variant_value=plain.variant_value,
        difference=mean,
        interval=_t_interval(mean, error, freedom, confidence_level, "welch-t"),
        standard_error=error,
        p_value=min(1.0, 2 * float(stdtr(freedom, -abs(mean) / error))),
        p_value_method="welch-t",
        effect_size=mean / pooled,
        least_detectable=_least_detectable(error, confidence_level),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values made larger for their number, so that the chance of any false one is kept (Holm 1979)."""
    known = sorted((value, position) for position, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, position) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[position] = largest
    return adjusted


def _is_whole(values: Values) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _t_interval(
    mean: float, error: float | None, freedom: float, confidence_level: float, method: str
) -> Interval | None:
    # Without any spread t claims a certainty that nobody has.
    if not error or freedom < 1:
        return None
    reach = float(stdtrit(freedom, 0.5 + confidence_level / 2)) * error
    return Interval(mean - reach, mean + reach, confidence_level, method)


def _least_detectable(error: float | None, confidence_level: float) -> float | None:
    if not error:
        return None
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + confidence_level / 2) + normal.inv_cdf(_POWER)) * error
