"""Callers' regular expressions are bounded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scoring.errors import PatternTimeoutError
from services.scoring.patterns import MAX_PATTERN_CHARACTERS, PatternMatcher, compile_pattern

ENDLESS = "(a|aa)+$"
VICTIM = "a" * 80 + "b"


def test_finding_and_removing_stop_at_the_limit() -> None:
    with pytest.raises(PatternTimeoutError):
        PatternMatcher(limit_seconds=0.05).find_all(ENDLESS, VICTIM)
    with pytest.raises(PatternTimeoutError):
        PatternMatcher(limit_seconds=0.05).remove_all(ENDLESS, VICTIM)
    with pytest.raises(PatternTimeoutError):
        PatternMatcher(limit_seconds=0.05).find_first(ENDLESS, VICTIM, anchoring="fullmatch")


def test_the_limit_is_shared_by_all_patterns_of_an_output() -> None:
    matcher = PatternMatcher(limit_seconds=0.0)
    with pytest.raises(PatternTimeoutError) as caught:
        matcher.find_all("a", "a")
    assert caught.value.metadata["pattern"] == "a"


@pytest.mark.parametrize(
    "pattern", ["(", "[", "*", "(?P<1>a)", "(" * 500 + ")" * 500, "a" * (MAX_PATTERN_CHARACTERS + 1), r"\1", "(?<=a*"]
)
def test_bad_patterns_are_value_errors(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|characters long"):
        compile_pattern(pattern)


@settings(deadline=None)
@given(pattern=st.text(r"ab(|)[]*+?{}\d1,^$.:P<>=!-", max_size=12), text=st.text("ab1,\n", max_size=12))
def test_wild_patterns_match_or_fail_typed(pattern: str, text: str) -> None:
    matcher = PatternMatcher(limit_seconds=0.2)
    try:
        compile_pattern(pattern)
    except ValueError:
        return
    try:
        assert all(isinstance(group, str) for groups in matcher.find_all(pattern, text) for group in groups)
        assert isinstance(matcher.remove_all(pattern, text), str)
    except PatternTimeoutError:
        pass
