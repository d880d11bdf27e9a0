"""Thresholds whose disagreement with a costlier guard is bounded, whatever the texts and the guards are like.

A cheap guard decides SAFE where its unsafe probability is at most ``low``, UNSAFE where it is at least ``high``, and
hands on the rest. Its disagreement is the share of all texts on which it decides, and otherwise than the last guard
would. ``choose_thresholds`` finds a pair with disagreement at most ε, with probability at least 1 − δ over the draw of
the calibration rows, and hands on as little as that allows.

Method: Learn then Test (Angelopoulos, Bates, Candès, Jordan & Lei, *Learn then test: calibrating predictive algorithms
to achieve risk control*, 2021, arXiv:2110.01052), in its split fixed-sequence form. One part of the rows orders pairs
of thresholds from cautious to bold; on the other part the hypotheses "the disagreement of this pair exceeds ε" are
tested in that order, each at level δ, until one is not rejected. All rejected before are valid at once, because the
first true hypothesis of the sequence is rejected with probability at most δ. The losses are 0 or 1, so the binomial
tail itself is the p-value (Bates, Angelopoulos, Lei, Malik & Jordan, *Distribution-free, risk-controlling prediction
sets*, 2021, arXiv:2101.02703, use it for the same purpose); it is tighter than Hoeffding–Bentkus, which bounds it.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_MOST_STEPS_A_SIDE = 200


@dataclass(frozen=True, slots=True)
class Judged:
    """One calibration row as two guards judged it.

    Attributes:
        probability: the cheap guard's unsafe probability; ``None`` where it has none and always hands on.
        is_unsafe: the last guard's decision; ``None`` where it was neither SAFE nor UNSAFE: any decision of the cheap
            guard then counts as disagreement.
    """

    probability: float | None
    is_unsafe: bool | None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a cheap guard decides; ``None`` means never.

    Attributes:
        low: it says SAFE at this unsafe probability and below.
        high: it says UNSAFE at this unsafe probability and above; more than ``low``.
    """

    low: float | None
    high: float | None

    def decide(self, probability: float | None) -> bool | None:
        """Return whether the cheap guard calls it unsafe; ``None`` if it hands on."""
        if probability is None or math.isnan(probability):
            return None
        if self.high is not None and probability >= self.high:
            return True
        return False if self.low is not None and probability <= self.low else None


HANDS_ALL_ON = Thresholds(None, None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pair of thresholds did on some rows, as counts."""

    rows: int
    mistakes: int
    escalated: int

    @property
    def disagreement(self) -> float:
        """Share of all rows on which the cheap guard decided otherwise than the last; 0 without rows."""
        return self.mistakes / self.rows if self.rows else 0.0

    @property
    def escalated_share(self) -> float:
        """Share of all rows that the cheap guard handed on; 0 without rows."""
        return self.escalated / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen thresholds and what speaks for them.

    Attributes:
        thresholds: the chosen pair; ``HANDS_ALL_ON`` if none could be promised.
        outcome: on the rows that the promise rests on.
        p_value: of "the disagreement exceeds ε"; at most δ, and 0 for ``HANDS_ALL_ON``, which cannot disagree.
        tested: pairs that were tested.
    """

    thresholds: Thresholds
    outcome: Outcome
    p_value: float
    tested: int


PValue = Callable[[int, int], float]
"""Of (mistakes, rows): the largest probability of so few mistakes if the disagreement exceeded ε."""


def measure(thresholds: Thresholds, rows: Sequence[Judged]) -> Outcome:
    """Count what a pair of thresholds does on rows."""
    decisions = [thresholds.decide(row.probability) for row in rows]
    mistakes = sum(
        decision is not None and decision is not row.is_unsafe for decision, row in zip(decisions, rows, strict=True)
    )
    return Outcome(len(rows), mistakes, sum(decision is None for decision in decisions))


def binomial_p_value(mistakes: int, rows: int, epsilon: float) -> float:
    """P(Bin(rows, ε) ≤ mistakes): no disagreement above ε makes so few mistakes more probable (Clopper–Pearson).

    Args:
        mistakes: 0 to ``rows``.
        rows: independent draws.
        epsilon: bound on the disagreement, between 0 and 1.
    """
    if mistakes >= rows:
        return 1.0
    log_share, log_rest = math.log(epsilon), math.log1p(-epsilon)
    return min(
        1.0,
        math.fsum(
            math.exp(_log_choose(rows, count) + count * log_share + (rows - count) * log_rest)
            for count in range(mistakes + 1)
        ),
    )


def exchangeable_p_value(mistakes: int, rows: int, epsilon: float, promised_rows: int) -> float:
    """Bound P(at most ``mistakes`` in ``rows``, and more than ε in the next ``promised_rows``) for exchangeable rows.

    For thresholds that only grow bolder in a fixed order, let them grow until the rows seen hold one mistake too many:
    the next rows then hold more than ⌊ε·m⌋ mistakes only if, among the first ``mistakes`` + ⌊ε·m⌋ + 1 mistakes of all
    n + m rows, at most ``mistakes`` fell among the n, which is a hypergeometric tail. It holds for the finite set of
    rows that comes next, while ``binomial_p_value`` speaks of the long run.

    Args:
        mistakes: 0 to ``rows``.
        rows: that were seen, n.
        epsilon: bound on the disagreement, between 0 and 1.
        promised_rows: that come next, m.
    """
    if mistakes >= rows:
        return 1.0
    drawn = mistakes + math.floor(epsilon * promised_rows + 1e-9) + 1
    whole = rows + promised_rows
    return min(
        1.0,
        math.fsum(
            math.exp(_log_choose(rows, count) + _log_choose(promised_rows, drawn - count) - _log_choose(whole, drawn))
            for count in range(max(0, drawn - promised_rows), min(mistakes, rows) + 1)
        ),
    )


def choose_thresholds(
    ordering_rows: Sequence[Judged], promise_rows: Sequence[Judged], *, delta: float, p_value: PValue
) -> Choice:
    """Return the pair that hands on least among those that can be promised.

    Args:
        ordering_rows: order the pairs; they need not be like later texts for the promise to hold.
        promise_rows: drawn like later texts and independent of ``ordering_rows``.
        delta: probability that the promise may fail, between 0 and 1.
        p_value: ``binomial_p_value`` or ``exchangeable_p_value`` with ε filled in.
    """
    best = Choice(HANDS_ALL_ON, measure(HANDS_ALL_ON, promise_rows), 0.0, 0)
    counts = _Counts(promise_rows)
    tested = 0
    for thresholds in threshold_path(ordering_rows):
        tested += 1
        outcome = counts.measure(thresholds)
        probability = p_value(outcome.mistakes, outcome.rows)
        if probability > delta:
            break
        if outcome.escalated <= best.outcome.escalated:
            best = Choice(thresholds, outcome, probability, tested)
    return Choice(best.thresholds, best.outcome, best.p_value, tested)


def threshold_path(rows: Sequence[Judged]) -> Iterator[Thresholds]:
    """Yield pairs from cautious to bold: ``low`` never falls, ``high`` never rises, and ``low`` stays below ``high``.

    No pair says SAFE at 1 or UNSAFE at 0. Each step decides about one more slice of texts, the one that costs the
    fewest mistakes for each decision. The costs are read off the lower convex hull of (decisions, mistakes) on each
    side, that is, from an isotonic fit of the error rate, so that noise in small slices does not order them.
    """
    known = sorted(
        (row.probability, row.is_unsafe)
        for row in rows
        if row.probability is not None and not math.isnan(row.probability) and row.is_unsafe is not None
    )
    safe_side = _side(known)
    unsafe_side = _side([(-probability, not is_unsafe) for probability, is_unsafe in reversed(known)])
    steps = sorted(
        [(cost, position, False, value) for cost, position, value in safe_side]
        + [(cost, position, True, -value) for cost, position, value in unsafe_side]
    )
    low: float | None = None
    high: float | None = None
    for _, _, is_unsafe_side, value in steps:
        if is_unsafe_side:
            if value <= 0 or (low is not None and value <= low):
                continue
            high = value
        else:
            if value >= 1 or (high is not None and value >= high):
                continue
            low = value
        yield Thresholds(low, high)


def _side(entries: Sequence[tuple[float, bool]]) -> list[tuple[float, float, float]]:
    """Return (cost, position from 0 to 1, threshold) of one side's steps, ascending in all three.

    Args:
        entries: (probability, whether deciding there is a mistake), ascending in the probability.
    """
    points: list[tuple[int, int, float]] = []
    mistakes = 0
    for index, (probability, is_mistake) in enumerate(entries):
        mistakes += is_mistake
        if index + 1 == len(entries) or entries[index + 1][0] != probability:
            points.append((index + 1, mistakes, probability))
    hull = _lower_hull([(0, 0), *((decided, wrong) for decided, wrong, _ in points)])
    stride = max(1, len(points) // _MOST_STEPS_A_SIDE)
    steps: list[tuple[float, float, float]] = []
    corner = 1
    for index, (decided, _, probability) in enumerate(points):
        while hull[corner][0] < decided:
            corner += 1
        if (index + 1) % stride and hull[corner][0] != decided:
            continue
        (from_decided, from_wrong), (to_decided, to_wrong) = hull[corner - 1], hull[corner]
        steps.append(((to_wrong - from_wrong) / (to_decided - from_decided), decided / len(entries), probability))
    return steps


def _lower_hull(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the corners of the lower convex hull of points that ascend in their first coordinate."""
    hull: list[tuple[int, int]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2], hull[-1]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull


class _Counts:
    """Counts what any pair of thresholds does on the same rows, in logarithmic time."""

    def __init__(self, rows: Sequence[Judged]) -> None:
        self._rows = len(rows)
        known = sorted(
            (row.probability, row.is_unsafe is not False, row.is_unsafe is not True)
            for row in rows
            if row.probability is not None and not math.isnan(row.probability)
        )
        self._all = [probability for probability, _, _ in known]
        self._not_safe = [probability for probability, not_safe, _ in known if not_safe]
        self._not_unsafe = [probability for probability, _, not_unsafe in known if not_unsafe]

    def measure(self, thresholds: Thresholds) -> Outcome:
        """Count what a pair does."""
        decided = mistakes = 0
        if thresholds.low is not None:
            decided += bisect_right(self._all, thresholds.low)
            mistakes += bisect_right(self._not_safe, thresholds.low)
        if thresholds.high is not None:
            decided += len(self._all) - bisect_left(self._all, thresholds.high)
            mistakes += len(self._not_unsafe) - bisect_left(self._not_unsafe, thresholds.high)
        return Outcome(self._rows, mistakes, self._rows - decided)


def _log_choose(whole: int, part: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)
