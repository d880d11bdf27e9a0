"""A range that holds the mean of the list at all times at once: a confidence sequence."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtri

from services.aggregation.sequential.betting import most_at_stake
from services.aggregation.sequential.draws import Values
from services.aggregation.sequential.evidence import Increments
from services.aggregation.sequential.questions import Decision, DecisionState, PrecisionRule

_STEPS: Final = 20
_AIMED: Final = 0.9
_MARGIN: Final = 1.02
_RESERVE: Final = 1.1
_SHORTEST: Final = 0.03
_HELD: Final = 48
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range after each of n draws, [n]."""

    lower: Values
    upper: Values


class _Side:
    """The capitals that bet on one side of each of a grid of claims.

    One tenth of each capital bets for a gap of the wanted half-width all the time, as gates do, so that the range is
    fair long before it is as narrow as wanted. The rest aims: it wants to have multiplied by the goal G when the
    evidence suffices for the wanted width, and bets what hedges a digital option that pays G there, i.e. λ = φ(x) /
    (Φ(x) √I s²) with Φ(x) = capital / G and I the evidence (Σ 1/s²) that is still to come. For normal increments such
    a bet wins exactly where a test planned for that moment rejects, and it may be stopped at any time like every other
    bet (idea: Voráček, STaR-Bets, arXiv 2505.22422, 2025). It is the one that makes a planned width cheap: ln(2/α)·2
    becomes about z².

    Args:
        claims: the grid, rising outwards: the claims that are easiest to refute come first.
        limit: capital that refutes.
        half_width: that is wanted.
    """

    def __init__(self, claims: Values, limit: float, half_width: float) -> None:
        self.claims = claims
        self.refuted = 0
        self._limit, self._gap = limit, half_width
        self._goal = _MARGIN * limit / _AIMED
        self.horizon = (-float(ndtri(1 / self._goal)) * _RESERVE / half_width) ** 2
        self._aimed, self._steady = np.ones(len(claims)), np.ones(len(claims))
        self._stakes = np.zeros(len(claims))
        self._is_refuted = np.zeros(len(claims), dtype=np.bool_)

    def rebalance(self, alive: slice, known: float) -> None:
        """Choose the stakes of the next draws; ``known`` is the evidence so far."""
        share = np.clip(self._aimed[alive] / self._goal, 1e-12, 1 - 1e-9)
        at = ndtri(share)
        to_come = max(self.horizon - known, _SHORTEST * self.horizon)
        self._stakes[alive] = np.exp(-0.5 * at**2) / (math.sqrt(2 * math.pi * to_come) * share)

    def bet(self, alive: slice, won: Values, room: Values, variance: Values) -> Values:
        """Bet on some draws; return after each how many claims are refuted, counted from the outermost.

        Args:
            alive: claims that matter.
            won: Z − m or m − Z, [draws, claims].
            room: what can be lost at most, [draws, claims].
            variance: s², [draws].
        """
        most = most_at_stake(room)
        steady = np.minimum((self._gap / (variance + self._gap**2))[:, None], most)
        aimed = np.minimum(self._stakes[alive] / variance[:, None], most)
        grown = [_multiplied(self._aimed[alive], 1 + aimed * won), _multiplied(self._steady[alive], 1 + steady * won)]
        self._aimed[alive], self._steady[alive] = grown[0][-1], grown[1][-1]
        over = _AIMED * grown[0] + (1 - _AIMED) * grown[1] >= self._limit
        over[0] |= self._is_refuted[alive]
        over = np.logical_or.accumulate(over, axis=0)
        self._is_refuted[alive] = over[-1]
        # A claim counts once all beyond it are refuted: so only a wrongly refuted innermost one can mislead.
        inner = np.where(over.all(axis=1), over.shape[1], np.argmin(over, axis=1))
        self.refuted = max(self.refuted, alive.start + int(inner[-1]))
        return np.asarray(alive.start + inner)


class ConfidenceSequence:
    """All means that no bet has refuted so far, intersected over time and with what the scores leave possible.

    Each claim of a grid has a capital on either side, a test supermartingale under all means on its other side, so a
    refuted point refutes all means beyond it, those between the points too. The same increments give bit-equal ranges
    however they are cut into calls.

    What the scores leave possible may contradict the bets, with probability ``alpha`` at most: then the bets have
    misled, and from there on the range is what the scores leave possible alone.

    Args:
        size: items in the list.
        alpha: probability that the range ever misses the mean, over all times.
        half_width: that the bets aim at.
    """

    def __init__(self, size: int, *, alpha: float, half_width: float) -> None:
        self._size = size
        grid = np.linspace(0.0, 1.0, math.ceil(_STEPS / half_width) + 1)
        self._from_below = _Side(grid, 2 / alpha, half_width)
        self._from_above = _Side(grid[::-1].copy(), 2 / alpha, half_width)
        self._known_below = self._known_above = 0.0
        self._count, self._next = 0, 0
        self._lower, self._upper = 0.0, 1.0
        self._range = (0.0, 1.0)

    @property
    def lower(self) -> float:
        """Lower end now."""
        return self._range[0]

    @property
    def upper(self) -> float:
        """Upper end now."""
        return self._range[1]

    @property
    def claimed(self) -> tuple[float, float]:
        """What was claimed at any time, intersected: it holds the mean if no range ever missed it."""
        return self._lower, self._upper

    @property
    def lacking(self) -> float:
        """Evidence (Σ 1/s²) to come until the range is about as narrow as wanted."""
        return max(0.0, self._from_below.horizon - self._known_below)

    def update(self, worst: Increments, best: Increments) -> Bounds:
        """Take the increments of the next draws, in draw order; return the range after each.

        Args:
            worst: with the lowest scores that failed items may have had.
            best: with the highest.
        """
        lower, upper, start, count = [np.empty(0)], [np.empty(0)], 0, len(worst.values)
        while start < count:
            if self._count == self._next:
                self._rebalance()
            stop = min(count, start + self._next - self._count)
            rows = slice(start, stop)
            bounds = self._take(worst.part(rows), best.part(rows))
            lower.append(bounds.lower)
            upper.append(bounds.upper)
            self._count += stop - start
            start = stop
        return Bounds(np.concatenate(lower), np.concatenate(upper))

    def _rebalance(self) -> None:
        self._next = self._count + max(1, self._count // _HELD)
        self._alive_below = self._alive(self._from_below.claims, self._from_below.refuted, self._upper)
        self._alive_above = self._alive(-self._from_above.claims, self._from_above.refuted, -self._lower)
        self._from_below.rebalance(self._alive_below, self._known_below)
        self._from_above.rebalance(self._alive_above, self._known_above)

    @staticmethod
    def _alive(claims: Values, refuted: int, end: float) -> slice:
        """Return the claims between those refuted and the range's other end."""
        first = min(refuted, len(claims) - 1)
        return slice(first, max(first + 1, int(np.searchsorted(claims, end)) + 1))

    def _take(self, worst: Increments, best: Increments) -> Bounds:
        below, above = self._from_below, self._from_above
        claims = below.claims[None, self._alive_below]
        low = below.bet(self._alive_below, worst.values[:, None] - claims, claims - worst.low[:, None], worst.variance)
        claims = above.claims[None, self._alive_above]
        high = above.bet(self._alive_above, claims - best.values[:, None], best.high[:, None] - claims, best.variance)
        self._known_below = _added(self._known_below, 1 / worst.variance)
        self._known_above = _added(self._known_above, 1 / best.variance)
        lowest = np.where(low > 0, below.claims[np.maximum(low - 1, 0)], 0.0)
        highest = np.where(high > 0, above.claims[np.maximum(high - 1, 0)], 1.0)
        least, most = worst.sums / self._size, (best.sums + self._size - best.counts) / self._size
        lower = np.maximum.accumulate(np.maximum(np.maximum(lowest, least), self._lower))
        upper = np.minimum.accumulate(np.minimum(np.minimum(highest, most), self._upper))
        self._lower, self._upper = float(lower[-1]), float(upper[-1])
        misled = lower > upper
        told = Bounds(np.where(misled, least, lower), np.where(misled, most, upper))
        self._range = float(told.lower[-1]), float(told.upper[-1])
        return told


def _multiplied(state: Values, factors: Values) -> Values:
    # What grows beyond all numbers is refuted long since.
    with np.errstate(over="ignore"):
        return np.asarray(np.multiply.accumulate(np.concatenate([state[None], factors]))[1:])


def _added(state: float, values: Values) -> float:
    return float(np.add.accumulate(np.concatenate(([state], values)))[-1])


class Range:
    """Answers the question of a mean to a half-width.

    Args:
        rule: what is asked.
        size: items in the list.
    """

    def __init__(self, rule: PrecisionRule, size: int) -> None:
        self._rule = rule
        self._sequence = ConfidenceSequence(size, alpha=rule.alpha, half_width=rule.half_width)
        self._size, self._count = size, 0
        self._decided: tuple[int, bool] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the range."""
        return self._sequence.lower, self._sequence.upper

    @property
    def claimed(self) -> tuple[float, float]:
        """See ``ConfidenceSequence.claimed``."""
        return self._sequence.claimed

    @property
    def decision(self) -> Decision:
        """The answer so far."""
        if self._decided is None:
            return Decision(DecisionState.UNDECIDED, None, 0.0, 0.0, False)
        return Decision(DecisionState.REACHED, self._decided[0], 0.0, 0.0, self._decided[1])

    @property
    def is_decided(self) -> bool:
        """Whether the range is as narrow as wanted."""
        return self._decided is not None

    def update(self, worst: Increments, best: Increments) -> None:
        """Take the increments of the next draws, in draw order; an answer, once given, stays."""
        bounds = self._sequence.update(worst, best)
        narrow = np.flatnonzero(bounds.upper - bounds.lower <= 2 * self._rule.half_width + _ROUNDING)
        if self._decided is None and len(narrow):
            after = int(worst.counts[narrow[0]])
            self._decided = (after, after == self._size)

    def expected_more(self, mean: float, variance: float) -> float:
        """Return roughly how many more draws the answer takes if each tells 1 / ``variance``."""
        del mean
        return max(1.0, self._sequence.lacking * variance)


class PlannedEstimate:
    """The mean estimated by weighting each draw's value by its precision, and its range for one planned look.

    Not certified: the range is right asymptotically and for a stop that does not follow from the values. It is the
    second mode beside the confidence sequence, and must be labelled.
    """

    def __init__(self) -> None:
        self.known = 0.0
        self._weighted = 0.0

    def update(self, increments: Increments) -> None:
        """Take the increments of the next draws."""
        if len(increments.values):
            self.known = _added(self.known, 1 / increments.variance)
            self._weighted = _added(self._weighted, increments.values / increments.variance)

    @property
    def value(self) -> float:
        """The estimate; one half before the first draw."""
        return self._weighted / self.known if self.known else 0.5

    def half_width(self, alpha: float) -> float:
        """Return half the width of its range."""
        return -float(ndtri(alpha / 2)) / math.sqrt(self.known) if self.known else math.inf
