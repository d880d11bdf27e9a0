"""How far judges agree, with people and with each other: pure functions, corrected for agreement by chance."""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple, TypeVar

RowT = TypeVar("RowT")
CategoryT = TypeVar("CategoryT", bound=Hashable)

RESAMPLES = 1000


class Range(NamedTuple):
    """An interval."""

    lower: float
    upper: float


def cohen_kappa(
    pairs: Sequence[tuple[CategoryT, CategoryT]], values: Mapping[CategoryT, float] | None = None
) -> float | None:
    """Return Cohen's kappa of two raters: 1 for perfect agreement, 0 for that of chance.

    Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20, 1960. With
    ``values`` it is weighted: disagreements count by the square of their distance (Cohen, Psychological Bulletin 70,
    1968).

    Args:
        pairs: (one rater's category, the other's) of each item.
        values: of each category; ``None``: all disagreements are alike.

    Returns:
        ``None`` where chance alone agrees on everything: both raters say one and the same, or there are no items.
    """
    count = len(pairs)
    ours, theirs = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)

    def disagreement(one: CategoryT, other: CategoryT) -> float:
        return float(one != other) if values is None else (values[one] - values[other]) ** 2

    observed = sum(disagreement(one, other) for one, other in pairs) * count
    expected = sum(
        disagreement(one, other) * times * others for one, times in ours.items() for other, others in theirs.items()
    )
    return 1 - observed / expected if expected else None


def fleiss_kappa(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    """Return Fleiss' kappa of several ratings an item.

    Fleiss, Measuring nominal scale agreement among many raters, Psychological Bulletin 76, 1971.

    Args:
        ratings: the categories that an item was given; equally many for each item, at least two.

    Returns:
        ``None`` where chance alone agrees on everything, or there are no items.

    Raises:
        ValueError: items with another number of ratings, or with fewer than two.
    """
    if not ratings:
        return None
    raters = len(ratings[0])
    if raters < 2 or any(len(each) != raters for each in ratings):
        raise ValueError("each item needs the same number of ratings, at least two")
    counts = [Counter(each) for each in ratings]
    agreed = sum(sum(n * (n - 1) for n in each.values()) for each in counts) / (len(ratings) * raters * (raters - 1))
    shares = [n / (len(ratings) * raters) for n in sum(counts, Counter()).values()]
    chance = sum(share * share for share in shares)
    return None if math.isclose(chance, 1.0) else (agreed - chance) / (1 - chance)


def wilson_interval(successes: int, count: int, confidence_level: float = 0.95) -> Range:
    """Return the score interval of a share (Wilson, Journal of the American Statistical Association 22, 1927).

    Without any item it is 0 to 1.
    """
    if not count:
        return Range(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence_level / 2)
    share = successes / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Range(max(0.0, middle - reach), min(1.0, middle + reach))


def bootstrap_interval(
    rows: Sequence[RowT],
    statistic: Callable[[Sequence[RowT]], float | None],
    *,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Range | None:
    """Return the percentile interval of a statistic over resampled rows (Efron 1979).

    Returns:
        ``None`` where fewer than half of the resamples have the statistic.
    """
    source = random.Random(seed)
    found = [statistic(source.choices(rows, k=len(rows))) for _ in range(RESAMPLES)] if rows else []
    values = sorted(each for each in found if each is not None)
    if len(values) < RESAMPLES / 2:
        return None
    tail = (1 - confidence_level) / 2
    last = len(values) - 1
    return Range(values[round(tail * last)], values[round((1 - tail) * last)])
