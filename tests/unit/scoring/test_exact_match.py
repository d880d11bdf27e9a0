"""Exact match against lm-evaluation-harness's definition and against cases checked by hand."""

import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.errors import FleetError
from services.scoring.contract import ChoicesOutput, ScoringItem, TextOutput
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.registry import ScorerRegistry, builtin_scorers

GSM8K_STRICT = {
    "pattern": r"#### (\-?[0-9\.\,]+)",
    "ignore_case": True,
    "regexes_to_ignore": [",", r"\$", r"(?s).*#### ", r"\.$"],
}
GSM8K_FLEXIBLE = {**GSM8K_STRICT, "pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "take": "last"}


def judge(text: str, *targets: str, **parameters: Any) -> tuple[float, str | None]:
    bound = ScorerRegistry(builtin_scorers()).bind("scorers/exact_match", parameters)
    score = bound.score(ScoringItem(targets=targets), TextOutput(text))
    assert list(score.metrics) == ["exact_match"]
    return score.metrics["exact_match"], score.extracted_answer


@pytest.mark.parametrize(
    ("text", "targets", "parameters", "value", "answer"),
    [
        ("Paris", ("Paris",), {}, 1, "Paris"),
        ("Paris ", ("Paris",), {}, 0, "Paris "),
        (" Paris\n", ("Paris",), {"strip": True}, 1, "Paris"),
        ("paris", ("Paris",), {"ignore_case": True}, 1, "paris"),
        ("STRASSE", ("straße",), {"ignore_case": True}, 0, "STRASSE"),  # lower case, not case folding
        ("Paris!", ("Paris",), {"ignore_punctuation": True}, 1, "Paris!"),
        ("Paris”", ("Paris",), {"ignore_punctuation": True}, 0, "Paris”"),  # ASCII punctuation only
        ("Paris 75", ("Paris ",), {"ignore_numbers": True}, 1, "Paris 75"),
        ("the Paris", ("Paris",), {"regexes_to_ignore": ["the "]}, 1, "the Paris"),
        ("The Paris", ("Paris",), {"regexes_to_ignore": ["the "], "ignore_case": True}, 0, "The Paris"),  # regex first
        ("Lyon", ("Paris", "Lyon"), {}, 1, "Lyon"),
        ("", ("",), {}, 1, ""),
        ("so the answer is (B).", ("B",), {"pattern": r"answer is \(?([A-D])"}, 1, "B"),
        ("A or B", ("B",), {"pattern": r"\b[AB]\b"}, 0, "A"),
        ("A or B", ("B",), {"pattern": r"\b[AB]\b", "take": "last"}, 1, "B"),
        ("x=1,y=2", ("2",), {"pattern": r"x=(\d),y=(\d)", "group": 2}, 1, "2"),
        ("y=2", ("2",), {"pattern": r"x=(\d)|y=(\d)"}, 1, "2"),  # the first group that is not empty
        ("y=2", ("[invalid]",), {"pattern": r"(x?)(z?)y"}, 1, None),  # several groups, all empty
        ("nothing", ("B",), {"pattern": r"([A-D])\."}, 0, None),
        ("nothing", ("none",), {"pattern": r"([A-D])\.", "fallback": "none"}, 1, None),
        ("is B ", ("B",), {"pattern": r"is (.*)"}, 1, "B"),  # what a pattern finds loses its white space
    ],
)
def test_cases_checked_by_hand(
    text: str, targets: tuple[str, ...], parameters: dict[str, Any], value: float, answer: str | None
) -> None:
    assert judge(text, *targets, **parameters) == (value, answer)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("She has 9 + 9 = 18.\n#### 18", 1, 1),
        ("#### 18. Question", 1, 1),
        ("#### $1,800", 0, 0),  # the dollar hides the number from the strict pattern; the flexible one reads 1,800
        ("The answer is 18", 0, 1),
        ("18 apples, 20 pears", 0, 0),
        ("#### -18", 0, 0),
    ],
)
def test_gsm8k_as_the_harness_defines_it(text: str, strict: float, flexible: float) -> None:
    target = "Some work: 9 + 9.\n#### 18"
    assert judge(text, target, **GSM8K_STRICT)[0] == strict
    assert judge(text, target, **GSM8K_FLEXIBLE)[0] == flexible


def reference(
    text: str, target: str, pattern: str | None, take: int, ignores: list[str], case: bool, punct: bool
) -> bool:
    """The harness's definition, written out with the standard library."""
    if pattern is not None:
        found = re.findall(pattern, text)
        chosen = found[take] if found else "[invalid]"
        if isinstance(chosen, tuple):
            chosen = next((group for group in chosen if group), "[invalid]")
        text = chosen.strip() if found else chosen
    pair = [text, target]
    for ignored in ignores:
        pair = [re.sub(ignored, "", each) for each in pair]
    if case:
        pair = [each.lower() for each in pair]
    if punct:
        pair = [each.translate(str.maketrans("", "", string.punctuation)) for each in pair]
    return pair[0] == pair[1]


ANSWERS = st.one_of(
    st.text(max_size=12), st.text("#$ ,.-0189AB\n", max_size=20), st.sampled_from(["#### 18", "a #### 1,8.", "(B)"])
)


@settings(deadline=None)
@given(
    text=ANSWERS,
    target=ANSWERS,
    pattern=st.sampled_from([None, r"#### (\-?[0-9\.\,]+)", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", r"\(?([AB])\)?", r"\d*"]),
    take=st.sampled_from([0, -1]),
    ignores=st.lists(st.sampled_from([",", r"\$", r"(?s).*#### ", r"\.$", r"\s"]), max_size=3),
    case=st.booleans(),
    punct=st.booleans(),
)
def test_equals_the_definition_on_wild_texts(
    text: str, target: str, pattern: str | None, take: int, ignores: list[str], case: bool, punct: bool
) -> None:
    value, _ = judge(
        text,
        target,
        pattern=pattern,
        take="first" if take == 0 else "last",
        regexes_to_ignore=ignores,
        ignore_case=case,
        ignore_punctuation=punct,
    )
    assert value == reference(text, target, pattern, take, ignores, case, punct)


def test_a_pattern_that_takes_too_long_is_a_typed_error() -> None:
    with pytest.raises(FleetError) as caught:
        judge("a" * 80 + "b", "x", pattern="(a|aa)+$")
    assert caught.value.reason == "PATTERN_TIMEOUT"
    assert "(a|aa)+$" in caught.value.message


def test_needs_text_and_targets() -> None:
    bound = ScorerRegistry(builtin_scorers()).bind("scorers/exact_match", {})
    with pytest.raises(InvalidScoreRequestError, match="at least one"):
        bound.score(ScoringItem(), TextOutput("x"))
    with pytest.raises(InvalidScoreRequestError, match="set text"):
        bound.score(ScoringItem(targets=("x",)), ChoicesOutput((-1.0,), ("x",)))
