"""Scorers that look for something in a text: contains and regex_match."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import FleetError
from services.scoring.errors import InvalidScoreRequestError
from tests.unit.scoring.judging import judge

MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "targets", "parameters", "value", "answer"),
    [
        ("It is Paris.", ("Paris",), {}, 1, "Paris"),
        ("It is paris.", ("Paris",), {}, 0, None),
        ("It is paris.", ("Paris",), {"ignore_case": True}, 1, "Paris"),
        ("Lyon or Paris", ("Rome", "Paris", "Lyon"), {}, 1, "Paris"),
        ("Lyon or Paris", ("Rome", "Paris"), {"mode": "all"}, 0, "Paris"),
        ("Lyon or Paris", ("Lyon", "Paris"), {"mode": "all"}, 1, "Lyon"),
        ("a start", ("art",), {}, 1, "art"),
        ("a start", ("art",), {"word_boundary": True}, 0, None),
        ("a start of art", ("art",), {"word_boundary": True}, 1, "art"),
        ("art_1 art2", ("art",), {"word_boundary": True}, 0, None),
        ("x(B)y", ("(B)",), {"word_boundary": True}, 1, "(B)"),  # a bracket is no word that goes on
        ("C++20", ("C++",), {"word_boundary": True}, 1, "C++"),
        ("Vitamin C++", ("C",), {"word_boundary": True}, 1, "C"),
        ("naïve", ("na",), {"word_boundary": True}, 0, None),
        ("हिन्दी", ("हि",), {"word_boundary": True}, 0, None),  # ends in a vowel sign, which is no letter of its own
        ("हिन्दी में", ("हिन्दी",), {"word_boundary": True}, 1, "हिन्दी"),
        ("বাংলায়", ("বা",), {"word_boundary": True}, 0, None),
        ("e\u0301te\u0301s", ("e\u0301te\u0301",), {"word_boundary": True}, 0, None),
        ("two  words", ("two words",), {"word_boundary": True}, 0, None),
    ],
)
def test_contains_checked_by_hand(
    text: str, targets: tuple[str, ...], parameters: dict[str, Any], value: float, answer: str | None
) -> None:
    score = judge("contains", text, *targets, **parameters)
    assert (score.metrics["contains"], score.extracted_answer) == (value, answer)


def test_an_empty_target_is_refused_by_its_index() -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        judge("contains", "a", "a", "")
    assert [violation.field for violation in caught.value.field_violations] == ["targets[1]"]


@pytest.mark.parametrize("target", ["a" * 10_000, "(" * 481])
def test_a_target_too_long_to_be_bounded_is_refused(target: str) -> None:
    with pytest.raises(InvalidScoreRequestError, match="word_boundary"):
        judge("contains", "a" * 20_000, target, word_boundary=True)
    assert judge("contains", target * 2, target).metrics["contains"] == 1


@given(st.text(max_size=30), st.text(min_size=1, max_size=4), st.booleans())
def test_contains_is_pythons_in_where_nothing_is_asked(text: str, target: str, ignore_case: bool) -> None:
    expected = target.lower() in text.lower() if ignore_case else target in text
    assert judge("contains", text, target, ignore_case=ignore_case).metrics["contains"] == expected


@given(st.text("ab_ (.é1", max_size=20), st.text("ab_ (.é1", min_size=1, max_size=3))
def test_boundaries_are_where_res_words_end(text: str, target: str) -> None:
    before, after = r"\b" if re.match(r"\w", target[0]) else "", r"\b" if re.match(r"\w", target[-1]) else ""
    expected = re.search(f"{before}{re.escape(target)}{after}", text) is not None
    assert judge("contains", text, target, word_boundary=True).metrics["contains"] == expected


@pytest.mark.parametrize(
    ("text", "targets", "parameters", "value", "answer"),
    [
        ("the 42nd", (), {"pattern": r"\d+"}, 1, "42"),
        ("the 42nd", (), {"pattern": r"the (\d+)"}, 1, "42"),
        ("the 42nd", (), {"pattern": r"(x)?the"}, 1, ""),
        ("the 42nd", (), {"pattern": r"\d+", "method": "match"}, 0, None),
        ("the 42nd", (), {"pattern": r"the \d+", "method": "match"}, 1, "the 42"),
        ("the 42nd", (), {"pattern": r"the \d+", "method": "fullmatch"}, 0, None),
        ("42\n", (), {"pattern": r"\d+", "method": "fullmatch"}, 0, None),
        ("42\n", (), {"pattern": r"\d+", "method": "fullmatch", "strip": True}, 1, "42"),
        ("THE", (), {"pattern": "the"}, 0, None),
        ("THE", (), {"pattern": "the", "ignore_case": True}, 1, "THE"),
        ("b2", ("a\\d", "b\\d"), {}, 1, "b2"),
        ("c2", ("a\\d", "b\\d"), {}, 0, None),
        ("c2", ("a\\d",), {"pattern": "c"}, 1, "c"),  # targets count only where there is no pattern
    ],
)
def test_regex_match_checked_by_hand(
    text: str, targets: tuple[str, ...], parameters: dict[str, Any], value: float, answer: str | None
) -> None:
    score = judge("regex_match", text, *targets, **parameters)
    assert (score.metrics["regex_match"], score.extracted_answer) == (value, answer)


def test_a_target_that_is_no_pattern_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        judge("regex_match", "a", "a", "(")
    assert [violation.field for violation in caught.value.field_violations] == ["targets[1]"]


@pytest.mark.parametrize("method", ["search", "match", "fullmatch"])
@given(
    pattern=st.sampled_from([r"\d+", "a|ab", "(a)(b)?", "^b", "b$", r"\Bb", "", "(?s)a.b", "[^ab]*"]),
    text=st.text("ab1 \n", max_size=8),
)
def test_regex_match_is_pythons_re(method: str, pattern: str, text: str) -> None:
    expected = getattr(re, method)(pattern, text) is not None
    assert judge("regex_match", text, pattern=pattern, method=method).metrics["regex_match"] == expected


def test_a_catastrophic_pattern_ends_typed() -> None:
    with pytest.raises(FleetError) as caught:
        judge("regex_match", "a" * MEGABYTE + "?", pattern="(a|aa)+$", method="fullmatch")
    assert caught.value.reason == "PATTERN_TIMEOUT"


def test_megabytes_are_searched() -> None:
    text = "ab " * (MEGABYTE // 3)
    assert judge("contains", text + "end", "end", word_boundary=True).metrics["contains"] == 1
    assert judge("regex_match", text + "end", pattern=r"\bend$").metrics["regex_match"] == 1
