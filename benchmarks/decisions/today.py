"""What people do today instead: z-tests repeated until one is significant, and a fixed subset; and a textbook range."""

from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

from benchmarks.decisions.replay import ALPHA, HALF_WIDTH, MARGIN, Case

Values = NDArray[np.float64]

_SUBSET: Final = 100
_FIRST_LOOK: Final = 30
_CRITICAL: Final = 1.645
_LOOKS: Final = 60


@dataclass(slots=True)
class Habits:
    """What replays of today's habits came to; shares of the items, and whether answers were wrong."""

    peek_gate: list[float] = field(default_factory=list)
    peek_boundary_passed: list[bool] = field(default_factory=list)
    peek_gate_wrong: list[bool] = field(default_factory=list)
    peek_a_vs_b_wrong: list[bool] = field(default_factory=list)
    subset_off: list[bool] = field(default_factory=list)
    subset_regression_off: list[bool] = field(default_factory=list)
    ppr: list[float] = field(default_factory=list)

    def extend(self, other: "Habits") -> None:
        """Add another's."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(other, each.name))


def replay_habits(case: Case, seed: int) -> Habits:
    """Replay one model's results as people read them today, in a uniform order."""
    order = np.random.default_rng(seed).permutation(len(case.scores))
    drawn, mean, size = case.scores[order], float(case.scores.mean()), len(case.scores)
    found = Habits()
    far = mean + MARGIN if 0 < mean + MARGIN < 1 else mean - MARGIN
    looks, passed = _peek(drawn, far)
    found.peek_gate.append(looks / size)
    found.peek_gate_wrong.append(passed != (mean >= far))
    # Just above the truth: to pass is wrong, whenever it happens.
    found.peek_boundary_passed.append(_ever_passes(drawn, mean + 1 / size))
    if case.rival is not None:
        found.peek_a_vs_b_wrong.append(_peek(drawn, case.rival)[1] != (mean >= case.rival))
    if size > _SUBSET:
        found.subset_off.append(abs(float(drawn[:_SUBSET].mean()) - mean) > HALF_WIDTH)
        case.predictor.fit(order[:_SUBSET], drawn[:_SUBSET])
        expected = case.predictor.plan(np.ones(size, np.bool_)).predictions
        estimate = (drawn[:_SUBSET].sum() + expected[order[_SUBSET:]].sum()) / size
        found.subset_regression_off.append(abs(float(estimate) - mean) > HALF_WIDTH)
    if case.is_whole:
        found.ppr.append(prior_posterior_ratio_share(drawn))
    return found


def _distances(drawn: Values, threshold: float) -> Values:
    """Return by how many standard errors the running mean is above a threshold at every look."""
    size, counts = len(drawn), np.arange(1, len(drawn) + 1)
    means = np.cumsum(drawn) / counts
    spread = np.maximum(np.cumsum(drawn**2) / counts - means**2, 1e-9)
    errors = np.sqrt(spread / counts * (size - counts) / max(1, size - 1))
    looks = slice(min(_FIRST_LOOK, size - 2), size - 1)
    return np.asarray((means - threshold)[looks] / errors[looks])


def _peek(drawn: Values, threshold: float) -> tuple[int, bool]:
    """Return after how many items the first significant test comes, and whether it says that the mean is above."""
    distances = _distances(drawn, threshold)
    significant = np.flatnonzero(np.abs(distances) > _CRITICAL)
    if not len(significant):
        return len(drawn), float(drawn.mean()) >= threshold
    return _FIRST_LOOK + 1 + int(significant[0]), bool(distances[significant[0]] > 0)


def _ever_passes(drawn: Values, threshold: float) -> bool:
    return bool((_distances(drawn, threshold) > _CRITICAL).any())


def prior_posterior_ratio_share(drawn: Values) -> float:
    """Return the share of items until the prior-posterior-ratio range of Waudby-Smith & Ramdas (2020) is narrow enough.

    Every number of right items is kept whose posterior (beta-binomial, from a uniform prior) is above α times its
    prior.
    """
    size, totals = len(drawn), np.arange(len(drawn) + 1)
    prior = -np.log(size + 1)
    looks = np.unique(np.linspace(_FIRST_LOOK, size, _LOOKS).astype(int))
    low, high = 0, size
    for count in looks:
        right = int(drawn[:count].sum())
        left, rest = size - count, totals - right
        fits = (rest >= 0) & (rest <= left)
        others = np.clip(rest, 0, left)
        posterior = (
            gammaln(left + 1)
            - gammaln(others + 1)
            - gammaln(left - others + 1)
            + betaln(others + right + 1, left - others + count - right + 1)
            - betaln(right + 1, count - right + 1)
        )
        kept = np.flatnonzero(fits & (posterior > prior + np.log(ALPHA)))
        low, high = max(low, int(kept[0])), min(high, int(kept[-1]))
        if high - low <= 2 * HALF_WIDTH * size:
            return float(count / size)
    return 1.0
