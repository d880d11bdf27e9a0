"""Two models on the same items: is the difference real, how large is it, and what could have been seen at all?"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference of two models on the same items.

    Attributes:
        mean: of B − A.
        standard_error: of the mean; 0 with one item.
        effect_size: mean over the differences' standard deviation (Cohen's d for pairs); 0 if nothing differs.
        p_value: of «no difference», by a sign-flip permutation test; exact McNemar where all scores are 0 or 1.
        method: ``mcnemar-exact`` or ``sign-flip-permutation``.
        least_detectable: difference that a test of the given level would find with the given power.
    """

    mean: float
    standard_error: float
    effect_size: float
    p_value: float
    method: str
    least_detectable: float


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of «both are equally often right alone», by the exact binomial test.

    Source: McNemar, Psychometrika 12, 1947; exact form: Edwards 1948, as in Fagerland, Lydersen & Laake, BMC Medical
    Research Methodology 13:91, 2013.

    Args:
        only_a: items that only A gets right.
        only_b: items that only B gets right.
    """
    count = only_a + only_b
    return 1.0 if count == 0 else min(1.0, 2 * float(bdtr(min(only_a, only_b), count, 0.5)))


def sign_flip_p_value(differences: Values, *, resamples: int = 9_999, seed: int = 7) -> float:
    """Return the two-sided p-value of «the differences are symmetric around 0», by flipping signs at random.

    (1 + number of resamples at least as far from 0) / (1 + resamples), so never 0 (Phipson & Smyth, Statistical
    Applications in Genetics and Molecular Biology 9, 2010).

    Args:
        differences: B − A of each item.
        resamples: random assignments of signs.
        seed: of these.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    chance, observed = np.random.default_rng(seed), abs(float(moved.sum()))
    hits, block = 0, max(1, 4_000_000 // len(moved))
    for start in range(0, resamples, block):
        signs = chance.integers(0, 2, size=(min(block, resamples - start), len(moved))) * 2.0 - 1.0
        # Sums of equal terms in another order differ by roundings.
        hits += int((np.abs(signs @ moved) >= observed * (1 - 1e-12)).sum())
    return (1 + hits) / (1 + resamples)


def paired_difference(
    a: Values, b: Values, *, level: float = 0.05, power: float = 0.8, seed: int = 7
) -> PairedDifference:
    """Compare two models' scores on the same items.

    Args:
        a: scores of A, [items], at least one.
        b: scores of B on the same items.
        level: of the two-sided test that ``least_detectable`` speaks of.
        power: of that test.
        seed: of the permutations.

    Raises:
        ValueError: there are no items, or not the same number of them.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError("both need scores of the same items, at least one")
    differences = b - a
    deviation = float(differences.std(ddof=1)) if len(a) > 1 else 0.0
    error = deviation / math.sqrt(len(a))
    is_whole = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    p_value = (
        mcnemar_exact(int((differences < 0).sum()), int((differences > 0).sum()))
        if is_whole
        else sign_flip_p_value(differences, seed=seed)
    )
    reach = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)
    return PairedDifference(
        mean=float(differences.mean()),
        standard_error=error,
        effect_size=float(differences.mean()) / deviation if deviation else 0.0,
        p_value=p_value,
        method="mcnemar-exact" if is_whole else "sign-flip-permutation",
        least_detectable=reach * error,
    )
