import random

import pytest
from evalfleet.calibration.fitting import JudgedRow, Promise, fit_cascade, measure_cascade
from evalfleet.calibration.risk_control import HANDS_ALL_ON, Thresholds
from evalfleet.errors import CalibrationError
from hypothesis import given
from hypothesis import strategies as st

probabilities = st.one_of(st.none(), st.floats(0, 1))
rows_of_two = st.lists(
    st.builds(JudgedRow, st.tuples(probabilities, probabilities), st.sampled_from([True, False, None])),
    min_size=8,
    max_size=80,
)


def graded_rows(count: int, *, stages: int = 1, seed: int = 1) -> list[JudgedRow]:
    """Guards that know better the nearer they are to the last one."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        truth = source.random()
        early = tuple(min(1.0, max(0.0, truth + source.gauss(0, 0.2 / (stage + 1)))) for stage in range(stages))
        rows.append(JudgedRow(early, truth > 0.5))
    return rows


def test_a_cheap_guard_spares_the_last_one_most_texts_within_the_bound() -> None:
    fit = fit_cascade(graded_rows(4000), Promise(0.02, 0.1))
    assert fit.held_out.rows == 1000
    assert fit.held_out.disagreement < 0.03
    assert fit.held_out.escalated_share < 0.6
    assert (fit.ordering_rows, fit.promise_rows) == (1000, 2000)
    (stage,) = fit.stages
    assert stage.choice.outcome.rows == 2000
    assert stage.errors_before is not None
    assert stage.errors_after is not None
    assert stage.errors_after.equal_mass < stage.errors_before.equal_mass


def test_a_third_guard_shares_the_promise_and_saves_more() -> None:
    rows = graded_rows(8000, stages=2)
    fit = fit_cascade(rows, Promise(0.02, 0.1))
    assert all(stage.choice.outcome.disagreement < 0.01 for stage in fit.stages)
    assert fit.held_out.disagreement <= 0.02
    without = fit_cascade([JudgedRow(row.early[:1], row.is_unsafe) for row in rows], Promise(0.01, 0.05))
    assert fit.held_out.escalated < without.held_out.escalated


def test_the_first_stage_that_decides_is_the_one_that_counts() -> None:
    pairs = [Thresholds(0.2, 0.8), Thresholds(0.4, 0.6)]
    rows = [
        JudgedRow((0.1, 0.9), True),
        JudgedRow((0.5, 0.9), True),
        JudgedRow((0.5, 0.5), True),
        JudgedRow((None, None), None),
    ]
    outcome = measure_cascade(pairs, rows)
    assert (outcome.rows, outcome.mistakes, outcome.escalated) == (4, 1, 2)


@given(rows_of_two, st.integers(0, 3))
def test_wild_rows_never_break_the_bookkeeping(rows: list[JudgedRow], seed: int) -> None:
    fit = fit_cascade(rows, Promise(0.3, 0.3), seed=seed)
    assert fit.ordering_rows + fit.promise_rows + fit.held_out.rows == len(rows)
    assert fit == fit_cascade(rows, Promise(0.3, 0.3), seed=seed)
    assert 0 <= fit.held_out.mistakes + fit.held_out.escalated <= fit.held_out.rows


def test_few_rows_promise_nothing_and_fewer_are_refused() -> None:
    fit = fit_cascade(graded_rows(40), Promise(0.02, 0.1))
    assert fit.thresholds == (HANDS_ALL_ON,)
    assert fit.held_out.escalated_share == 1
    with pytest.raises(CalibrationError, match="too few"):
        fit_cascade(graded_rows(7), Promise(0.02, 0.1))


def test_rows_of_different_guards_are_refused() -> None:
    with pytest.raises(CalibrationError):
        fit_cascade([*graded_rows(10), *graded_rows(1, stages=2)], Promise(0.02, 0.1))
    with pytest.raises(CalibrationError):
        fit_cascade([JudgedRow((), True)] * 10, Promise(0.02, 0.1))


@pytest.mark.parametrize(("epsilon", "delta", "promised"), [(0, 0.1, None), (0.1, 1, None), (0.1, 0.1, 0)])
def test_no_promise_is_made_of_nonsense(epsilon: float, delta: float, promised: int | None) -> None:
    with pytest.raises(CalibrationError):
        Promise(epsilon, delta, promised)
