import math
import random

import pytest
from evalfleet.calibration.temperature import LEAST_TEMPERATURE, apply_temperature, calibration_errors, fit_temperature
from hypothesis import given
from hypothesis import strategies as st

shares = st.floats(0, 1)
temperatures = st.floats(0.05, 20)


def overconfident(count: int, temperature: float) -> tuple[list[float], list[bool]]:
    """Draw labels from the probabilities at ``temperature``; those that are told are at 1."""
    source = random.Random(3)
    told = [source.random() for _ in range(count)]
    return told, [source.random() < apply_temperature(each, temperature) for each in told]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*overconfident(8000, temperature)) == pytest.approx(temperature, rel=0.1)


def test_scaling_mends_overconfidence() -> None:
    told, labels = overconfident(8000, 3.0)
    temperature = fit_temperature(told, labels)
    scaled = [apply_temperature(each, temperature) for each in told]
    before, after = calibration_errors(told, labels), calibration_errors(scaled, labels)
    assert before.equal_width > 0.1
    assert before.equal_mass > 0.1
    assert after.equal_width < 0.03
    assert after.equal_mass < 0.03
    assert after.log_loss < before.log_loss


def test_errors_are_what_the_definition_says() -> None:
    errors = calibration_errors([0.1, 0.1, 0.9, 0.9], [False, True, True, True], bins=2)
    assert errors.equal_width == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert errors.equal_mass == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert errors.log_loss == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)


def test_a_guard_without_a_mistake_does_not_become_a_step() -> None:
    told, labels = [0.3, 0.4, 0.6, 0.7] * 5, [False, False, True, True] * 5
    assert fit_temperature(told, labels) == pytest.approx(LEAST_TEMPERATURE, rel=1e-5)
    assert 0 < apply_temperature(0.4, LEAST_TEMPERATURE) < 0.01


def test_labels_that_are_all_alike_fit_nothing() -> None:
    assert fit_temperature([0.2, 0.3], [False, False]) == 1.0
    assert fit_temperature([], []) == 1.0


@given(shares, shares, temperatures)
def test_scaling_keeps_the_order_and_the_range(one: float, other: float, temperature: float) -> None:
    low, high = sorted((one, other))
    scaled_low, scaled_high = apply_temperature(low, temperature), apply_temperature(high, temperature)
    assert 0 <= scaled_low <= scaled_high <= 1
    assert apply_temperature(0.5, temperature) == 0.5


@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=40))
def test_errors_are_shares_and_the_fit_never_makes_the_log_loss_worse(rows: list[tuple[float, bool]]) -> None:
    told, labels = [each for each, _ in rows], [label for _, label in rows]
    temperature = fit_temperature(told, labels)
    assert temperature > 0
    errors = calibration_errors(told, labels)
    assert 0 <= errors.equal_width <= 1
    assert 0 <= errors.equal_mass <= 1
    scaled = calibration_errors([apply_temperature(each, temperature) for each in told], labels)
    if all(1e-6 < each < 1 - 1e-6 for each in told):
        assert scaled.log_loss <= errors.log_loss + 1e-4
