import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.aggregation.corrected_rates import GuardQuality, corrected_rate

LEVEL = 0.95
SIMULATIONS = 400

counts = st.integers(1, 500)


@st.composite
def qualities(draw: st.DrawFn) -> GuardQuality:
    unsafe, safe = draw(counts), draw(counts)
    return GuardQuality(unsafe, draw(st.integers(0, unsafe)), safe, draw(st.integers(0, safe)))


def heads(source: random.Random, count: int, share: float) -> int:
    return sum(source.random() < share for _ in range(count))


def test_the_point_estimate_is_rogan_and_gladens() -> None:
    # 30 % true: 0.3 · 0.9 found + 0.7 · 0.2 false alarms = 0.41 counted.
    guard = GuardQuality(unsafe_count=1000, unsafe_found=900, safe_count=1000, safe_cleared=800)
    corrected = corrected_rate(410, 1000, guard, LEVEL)
    assert corrected.value == pytest.approx(0.3)
    assert corrected.interval.lower < 0.3 < corrected.interval.upper
    assert corrected.interval.upper - corrected.interval.lower < 0.12


def test_fewer_false_alarms_than_expected_are_a_rate_of_zero() -> None:
    guard = GuardQuality(100, 90, 100, 80)
    corrected = corrected_rate(5, 100, guard, LEVEL)
    assert (corrected.value, corrected.interval.lower) == (0.0, 0.0)


@pytest.mark.parametrize(("found", "cleared"), [(50, 50), (40, 50), (0, 0), (0, 100)])
def test_a_guard_that_guesses_says_nothing(found: int, cleared: int) -> None:
    corrected = corrected_rate(30, 100, GuardQuality(100, found, 100, cleared), LEVEL)
    assert corrected.value is None
    assert (corrected.interval.lower, corrected.interval.upper) == (0.0, 1.0)


def test_few_labels_widen_the_interval() -> None:
    widths = [
        (each := corrected_rate(200, 1000, GuardQuality(n, round(0.9 * n), n, round(0.9 * n)), LEVEL).interval).upper
        - each.lower
        for n in (20, 100, 1000, 100_000)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1]


def test_with_endless_labels_it_is_the_rates_own_uncertainty() -> None:
    perfect = GuardQuality(10**9, 10**9, 10**9, 10**9)
    interval = corrected_rate(200, 1000, perfect, LEVEL).interval
    assert interval.lower == pytest.approx(0.1764, abs=0.002)  # Agresti–Coull
    assert interval.upper == pytest.approx(0.2260, abs=0.002)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2, 0.7])
@pytest.mark.parametrize(("sensitivity", "specificity"), [(0.95, 0.97), (0.75, 0.85)])
@pytest.mark.parametrize("labels", [60, 300])
def test_the_interval_covers_the_true_rate(rate: float, sensitivity: float, specificity: float, labels: int) -> None:
    source = random.Random(11)
    covered = 0
    for _ in range(SIMULATIONS):
        guard = GuardQuality(labels, heads(source, labels, sensitivity), labels, heads(source, labels, specificity))
        counted = heads(source, 500, rate * sensitivity + (1 - rate) * (1 - specificity))
        interval = corrected_rate(counted, 500, guard, LEVEL).interval
        covered += interval.lower <= rate <= interval.upper
    # 3 standard errors of a share of 0.95 among 400 are 0.033.
    assert covered / SIMULATIONS >= LEVEL - 0.035


def test_ignoring_the_guards_own_uncertainty_would_not_cover() -> None:
    """The simulation above can fail: sure of a guard that it saw on 60 texts, an interval is too narrow."""
    source = random.Random(12)
    covered = 0
    for _ in range(SIMULATIONS):
        found, cleared = heads(source, 60, 0.75), heads(source, 60, 0.85)
        sure = GuardQuality(60 * 10**6, found * 10**6, 60 * 10**6, cleared * 10**6)
        interval = corrected_rate(heads(source, 500, 0.2 * 0.75 + 0.8 * 0.15), 500, sure, LEVEL).interval
        covered += interval.lower <= 0.2 <= interval.upper
    assert covered / SIMULATIONS < 0.85


@given(counts, st.integers(0, 500), qualities(), st.floats(0.51, 0.999))
def test_wild_counts_give_shares(count: int, violations: int, guard: GuardQuality, level: float) -> None:
    corrected = corrected_rate(min(violations, count), count, guard, level)
    assert 0 <= corrected.interval.lower <= corrected.interval.upper <= 1
    if corrected.value is not None:
        assert corrected.interval.lower <= corrected.value <= corrected.interval.upper


@pytest.mark.parametrize("quality", [(0, 0, 1, 1), (1, 2, 1, 1), (1, -1, 1, 1), (1, 1, 0, 0), (1, 1, 1, 2)])
def test_counts_that_cannot_be_are_refused(quality: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        GuardQuality(*quality)


@pytest.mark.parametrize(("violations", "count"), [(0, 0), (2, 1), (-1, 1)])
def test_rates_that_cannot_be_are_refused(violations: int, count: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        corrected_rate(violations, count, GuardQuality(1, 1, 1, 1), LEVEL)
