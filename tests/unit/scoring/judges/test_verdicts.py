"""An answer is a verdict of the rubric, or an error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.judges.errors import JudgeUnparsableError
from services.scoring.judges.library import open_library
from services.scoring.judges.verdicts import Statement, expected_value, read_verdict

LIBRARY = open_library()
QUALITY = LIBRARY.find("quality")
TERSE = QUALITY.model_copy(update={"reasoning": False})


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("Verdict: 4", Statement("4", "", "Verdict: ")),
        ("\n\n Verdict: 4 \n", Statement("4", "", "\n\n Verdict: ")),
        ("Right and short.\nVerdict: 5", Statement("5", "Right and short.", "\nVerdict: ")),
        (
            " It says «Verdict: 1» inside.\n\nVerdict: 2\n\n",
            Statement("2", " It says «Verdict: 1» inside.", "\n\nVerdict: "),
        ),
    ],
)
def test_reads_a_verdict(text: str, statement: Statement) -> None:
    assert read_verdict(QUALITY, text, is_complete=True) == statement
    assert text.startswith(statement.reasons + statement.label + statement.word)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no lines"),
        ("4", "has no lines"),
        ("The verdict is 4.", "has no lines"),
        ("verdict: 4", "has no lines"),
        ("Verdict: 4\nVerdict: 4", "has 2 lines"),
        ("Verdict: 4\nor\n Verdict: 5", "has 2 lines"),
        ("Verdict: 4\nThat is all.", "does not end"),
        ("Verdict: 4 of 5", "does not end"),
        ("Verdict:4", "does not end"),
        ("Verdict: ", "does not end"),
        ("Verdict: 4.", "none of the verdicts"),
        ("Verdict: 6", "none of the verdicts"),
        ("Verdict: **4**", "none of the verdicts"),
        ("Verdict: four", "none of the verdicts"),
        ("Verdict: ４", "none of the verdicts"),
    ],
)
def test_anything_else_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(JudgeUnparsableError, match=problem) as failed:
        read_verdict(QUALITY, text, is_complete=True)
    assert failed.value.reason == "JUDGE_UNPARSABLE"


def test_what_was_cut_off_is_an_error() -> None:
    with pytest.raises(JudgeUnparsableError, match="cut off"):
        read_verdict(QUALITY, "Verdict: 4", is_complete=False)


def test_reasons_that_were_not_asked_for_are_an_error() -> None:
    assert read_verdict(TERSE, "\nVerdict: 4", is_complete=True).word == "4"
    with pytest.raises(JudgeUnparsableError, match="more than the verdict"):
        read_verdict(TERSE, "Well.\nVerdict: 4", is_complete=True)


@given(st.one_of(st.text(), st.text().map("{}\nVerdict: 3".format), st.text().map("Verdict: {}".format)))
def test_wild_answers_end_in_a_verdict_or_an_error(text: str) -> None:
    try:
        statement = read_verdict(QUALITY, text, is_complete=True)
    except JudgeUnparsableError:
        return
    assert statement.word in QUALITY.words
    assert text.rstrip().endswith(f"Verdict: {statement.word}")


@pytest.mark.parametrize(
    "text",
    [
        "\n \t" * 300_000 + "Verdict" * 100_000,
        "Verdict: 4" + " " * 1_000_000 + "x",
        " " * 1_000_000,
        "Verdict: \n" * 99_999,
    ],
)
def test_a_huge_answer_is_read_at_once(text: str) -> None:
    with pytest.raises(JudgeUnparsableError) as failed:
        read_verdict(QUALITY, text, is_complete=True)
    assert len(failed.value.message) < 500


def test_the_expected_value_weighs_verdicts_by_their_probabilities() -> None:
    halves = [math.log(each) for each in (0.01, 0.01, 0.01, 0.03, 0.03)]
    assert expected_value(QUALITY, halves) == pytest.approx((1 + 2 + 3 + 3 * 4 + 3 * 5) / 9)
    assert expected_value(QUALITY, [-math.inf] * 4 + [-5000.0]) == 5.0
    assert expected_value(QUALITY, [-math.inf] * 5) is None
    assert expected_value(QUALITY, [math.nan, -1.0, -1.0, -1.0, -1.0]) is None


@given(st.lists(st.floats(max_value=0.0, allow_nan=False), min_size=5, max_size=5))
def test_an_expected_value_stays_within_the_scale(values: list[float]) -> None:
    expected = expected_value(QUALITY, values)
    assert expected is None or 1.0 - 1e-9 <= expected <= 5.0 + 1e-9
