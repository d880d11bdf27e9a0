"""From probabilities to what they mean."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.errors import UnusableAnswerError
from services.safety.guard import LabelledText
from services.safety.guard_file import LaterWindows
from services.safety.reading import LabelReader, is_unmapped
from tests.fakes.classifier import LABELS, answer, guard_file

READER = LabelReader(LABELS, guard_file())


def test_the_unsafe_output_decides_when_it_is_the_largest() -> None:
    reading = READER.read(answer(0.8, 0.3, 0.1))
    assert reading.unsafe_probability == 0.8
    assert reading.reached(0.5) == ()


def test_a_category_never_exceeds_the_unsafe_probability() -> None:
    reading = READER.read(answer(0.2, 0.9, 0.6))
    assert reading.unsafe_probability == 0.9
    assert [(each.category.code, each.probability) for each in reading.reached(0.5)] == [
        ("violence", 0.9),
        ("insult", 0.6),
    ]
    assert [each.category.ailuminate_code for each in reading.reached(0.5)] == ["vcr", ""]


def test_a_label_that_the_taxonomy_lacks_is_a_hazard_without_a_taxonomy() -> None:
    reading = READER.read(answer(0.1, 0.0, 0.0, 0.7))
    [score] = reading.reached(0.5)
    assert is_unmapped(score.category)
    assert (score.category.taxonomy, score.category.code) == ("", "novel")
    assert reading.unsafe_probability == 0.7


def test_what_safe_labels_leave_of_one_is_unsafe() -> None:
    reader = LabelReader(
        ("fine", "meh", "violence"), guard_file(labels={"fine": "safe", "meh": "safe"}, special_tokens=0)
    )
    reading = reader.read(LabelledText([0.25, 0.25, 0.125], 5, False))
    assert reading.unsafe_probability == 0.5


def test_roundings_of_the_engine_are_forgiven() -> None:
    assert READER.read(answer(1 + 5e-7, -5e-7)).unsafe_probability == 1.0


@pytest.mark.parametrize(
    ("given_answer", "reason"),
    [
        (answer(math.nan), "PROBABILITY_NOT_FINITE"),
        (answer(0.1, math.inf), "PROBABILITY_NOT_FINITE"),
        (answer(0.1, -math.inf), "PROBABILITY_NOT_FINITE"),
        (answer(1.01), "PROBABILITY_OUT_OF_RANGE"),
        (answer(-0.01), "PROBABILITY_OUT_OF_RANGE"),
        (LabelledText([], 9, False), "WRONG_PROBABILITY_COUNT"),
        (LabelledText([0.1] * 3, 9, False), "WRONG_PROBABILITY_COUNT"),
        (LabelledText([0.1] * 5, 9, False), "WRONG_PROBABILITY_COUNT"),
        (answer(0.1, num_tokens=2), "NOTHING_READ"),
        (answer(0.1, num_tokens=0), "NOTHING_READ"),
    ],
)
def test_what_is_no_judgement_is_refused(given_answer: LabelledText, reason: str) -> None:
    with pytest.raises(UnusableAnswerError) as caught:
        READER.read(given_answer)
    assert caught.value.reason == reason


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 6), st.floats(0.01, 1), st.floats(0, 1))
def test_a_higher_bar_lowers_log_odds_and_keeps_order_certainty_and_categories(
    values: list[float], margin: float, weight: float, threshold: float
) -> None:
    reading = READER.read(LabelledText(values, 9, False))
    held = reading.held_to(LaterWindows(margin=margin, weight=weight), threshold)
    plain = reading.held_to(LaterWindows(margin=margin), threshold)
    if threshold > 0 and abs(plain.unsafe_probability - threshold) > 1e-9:
        assert (held.unsafe_probability >= threshold) == (plain.unsafe_probability >= threshold)
    assert [each.category for each in held.scores] == [each.category for each in reading.scores]
    before = [reading.unsafe_probability, *(each.probability or 0.0 for each in reading.scores)]
    after = [held.unsafe_probability, *(each.probability or 0.0 for each in held.scores)]
    assert after[1:] == sorted(after[1:], reverse=True)
    weights = [weight, *(1.0 for _ in held.scores)]
    for one, other, counts in zip(before, after, weights, strict=True):
        assert 0 <= other <= one + 1e-12
        assert (one, other) == (1.0, 1.0) or one < 1.0
        if 0.001 < one < 0.999:
            expected = math.log(one / (1 - one)) - margin
            if 0.001 < threshold < 0.999:
                bar = math.log(threshold / (1 - threshold))
                expected = min(expected, bar + counts * (expected - bar))
                assert math.log(other / (1 - other)) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=6), st.integers(0, 5))
def test_any_list_of_numbers_is_either_refused_or_bounded(values: list[float], num_tokens: int) -> None:
    try:
        reading = READER.read(LabelledText(values, num_tokens, False))
    except UnusableAnswerError:
        return
    assert len(values) == len(LABELS)
    assert num_tokens > 2
    assert 0 <= reading.unsafe_probability <= 1
    assert reading.unsafe_probability == min(1.0, max(0.0, *values))
