"""Numeric answers and the numbers in texts."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.numbers import parse_number
from services.scoring.registry import ScorerRegistry, builtin_scorers


def judge(text: str, *targets: str, **parameters: Any) -> tuple[float, str | None]:
    bound = ScorerRegistry(builtin_scorers()).bind("scorers/numeric_answer", parameters)
    score = bound.score(ScoringItem(targets=targets), TextOutput(text))
    return score.metrics["numeric_match"], score.extracted_answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        (" 18. ", "18"),
        ("18.0", "18"),
        (".5", "0.5"),
        ("5.", "5"),
        ("5...", "5"),
        ("+7", "7"),
        ("-3", "-3"),
        ("−3", "-3"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        (r"\$5", "5"),
        ("50%", "50"),
        ("1\u202f000\u00a0000", "1000000"),
        ("1e3", "1000"),
        ("1E-3", "0.001"),
        ("１８", "18"),
        ("0.1", "0.1"),
    ],
)
def test_reads_numbers_as_people_write_them(text: str, number: str) -> None:
    assert parse_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    ["", ".", "-", "$", "1 000", "1/2", "1.2.3", "eighteen", "nan", "Infinity", "--5", "1e9999", "9" * 1001, "²"],
)
def test_reads_nothing_else(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "mode", "value", "answer"),
    [
        ("#### 18", "strict", 1, "18"),
        ("#### $18.00 a day", "strict", 1, "18.00"),
        ("####18", "strict", 1, "18"),
        ("#### 18\nQuestion: …\n#### 20", "strict", 1, "18"),  # the first
        ("The answer is 18", "strict", 0, None),
        ("The answer is 18.", "flexible", 1, "18"),
        ("20 - 2 = 18 apples", "flexible", 1, "18"),
        ("18 apples and 2 pears", "flexible", 0, "2"),
        ("between 15-18", "flexible", 1, "18"),  # a range has no minus sign
        ("it is −18", "flexible", 0, "-18"),
        ("18 ... or so", "flexible", 1, "18"),  # dots are no number
        ("eighteen", "flexible", 0, None),
    ],
)
def test_finds_the_number(text: str, mode: str, value: float, answer: str | None) -> None:
    assert judge(text, "18", mode=mode) == (value, answer)


def test_a_custom_pattern_replaces_the_modes_own() -> None:
    text = "answer=17 answer=18 total 99"
    assert judge(text, "18", pattern=r"answer=(\d+)") == (0, "17")
    assert judge(text, "18", pattern=r"answer=(\d+)", mode="flexible") == (1, "18")
    assert judge("answer=many", "18", pattern=r"answer=(\w+)") == (0, None)


@pytest.mark.parametrize(
    ("text", "target", "tolerance", "value"),
    [
        ("#### 0.3", "0.1", 0.2, 1),  # binary floating point would say 0.19999999999999998 or 0.20000000000000001
        ("#### 0.3001", "0.1", 0.2, 0),
        ("#### 100000000000000000000000000000001", "100000000000000000000000000000000", 0, 0),
        ("#### 100000000000000000000000000000001", "100000000000000000000000000000000", 1, 1),
        # 10⁴⁰ + ½, which Python's decimals round to 10⁴⁰ unless told otherwise.
        ("#### " + "1" + "0" * 40, "-0.5", 1e40, 0),
    ],
)
def test_compares_exactly(text: str, target: str, tolerance: float, value: float) -> None:
    assert judge(text, target, tolerance=tolerance)[0] == value


@pytest.mark.parametrize(
    ("text", "target", "relative", "absolute", "value"),
    [
        ("#### 101", "100", 0.01, 0, 1),
        ("#### 101.0001", "100", 0.01, 0, 0),
        ("#### -99", "-100", 0.01, 0, 1),
        ("#### 0.001", "0", 0.5, 0, 0),
        ("#### 0.001", "0", 0.5, 0.001, 1),  # the larger of the two holds
        ("#### 100", "101", 0.0099, 0, 0),  # a share of the target, not of the answer
    ],
)
def test_a_relative_tolerance_is_a_share_of_the_target(
    text: str, target: str, relative: float, absolute: float, value: float
) -> None:
    assert judge(text, target, relative_tolerance=relative, tolerance=absolute)[0] == value


def test_any_target_counts_and_may_be_a_worked_solution() -> None:
    assert judge("#### 18", "17", "2 * 9 = <<2*9=18>>18\n#### 18")[0] == 1


def test_a_target_without_a_number_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        judge("#### 18", "18", "eighteen")
    assert [violation.field for violation in caught.value.field_violations] == ["targets[1]"]


@settings(deadline=None)
@given(st.text(max_size=80), st.sampled_from(["strict", "flexible"]))
def test_wild_texts_score_zero_or_one(text: str, mode: str) -> None:
    value, answer = judge(text, "18", mode=mode)
    assert value in (0.0, 1.0)
    assert answer is None or parse_number(answer) is not None


@settings(deadline=None)
@given(st.text("0123456789.,-−$€%+ #eE\u00a0", max_size=30))
def test_numerals_in_every_disorder(text: str) -> None:
    assert judge("#### " + text, "18")[0] in (0.0, 1.0)
    assert judge(text, "18", mode="flexible")[0] in (0.0, 1.0)


@settings(deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_equals_itself_however_it_is_written(number: Decimal) -> None:
    assert judge(f"#### {number:,}", str(number))[0] == 1
    assert judge(f"so it is ${number:f}.", str(number), mode="flexible")[0] == 1


def test_gold_solutions_of_gsm8k_score_one(data_dir: Path) -> None:
    lines = (data_dir / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    for answer in (json.loads(line)["answer"] for line in lines):
        assert judge(answer, answer)[0] == 1, answer
        assert judge(answer, answer, mode="flexible")[0] == 1, answer
