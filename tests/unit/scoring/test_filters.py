"""Pipelines of filters, by lm-evaluation-harness's definitions.

``python -m benchmarks.scorer_parity`` compares them with the harness itself, row by row.
"""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.scoring.contract import SamplesOutput, ScoringItem
from services.scoring.errors import InvalidScoreRequestError, PatternTimeoutError
from services.scoring.filters import Filter, filtered_answer
from services.scoring.patterns import PatternMatcher
from services.scoring.registry import ScorerRegistry, builtin_scorers
from tests.unit.scoring.judging import judge

PIPELINE: TypeAdapter[tuple[Filter, ...]] = TypeAdapter(tuple[Filter, ...])


def find(filters: list[dict[str, Any]], *samples: str) -> str | None:
    return filtered_answer(PIPELINE.validate_python(tuple(filters)), samples, PatternMatcher())


LAST_NUMBER = {"function": "regex", "regex_pattern": r"-?\d+", "group_select": -1}


@pytest.mark.parametrize(
    ("filters", "samples", "answer"),
    [
        ([{"function": "take_first"}], ("a", "b"), "a"),
        ([LAST_NUMBER], ("1 then 22 ",), "22"),
        ([{"function": "regex"}], ("so\n#### 1,234",), "1,234"),  # the harness's default pattern is GSM8K's
        ([{"function": "regex", "fallback": "none"}], ("no number",), "none"),
        ([{**LAST_NUMBER, "group_select": 1}], ("1 then 2 then 3",), "2"),
        ([{**LAST_NUMBER, "group_select": 5}], ("1 then 2",), "[invalid]"),
        ([{"function": "regex", "regex_pattern": "(x)|(y)"}], ("zy",), "y"),
        ([{"function": "regex", "regex_pattern": "(x?)(y?)z"}], ("z",), "[invalid]"),
        ([{"function": "lowercase"}, {"function": "remove_whitespace"}], (" YES\n",), "yes"),
        ([{"function": "uppercase"}], ("straße",), "STRASSE"),
        ([{"function": "map", "mapping_dict": {"yes": "A", "no": "B"}}], ("no",), "B"),
        ([{"function": "map", "mapping_dict": {"yes": "A"}}], ("maybe",), None),
        ([{"function": "map", "mapping_dict": {"yes": "A"}, "default_value": "?"}], ("maybe",), "?"),
        ([{"function": "map"}, {"function": "lowercase"}], ("Maybe",), None),
        ([{"function": "map"}, {"function": "regex", "regex_pattern": "x*", "fallback": "f"}], ("Maybe",), ""),
        ([LAST_NUMBER, {"function": "majority_vote"}, {"function": "take_first"}], ("1", "x 2", "2"), "2"),
        ([{"function": "majority_vote"}], ("b", "a", "a", "b"), "b"),  # the first of equals
        ([{"function": "take_first_k", "k": 2}, {"function": "majority_vote"}], ("b", "c", "c", "c"), "b"),
        ([{"function": "take_first"}, {"function": "lowercase"}], ("AB", "C"), "ab"),
    ],
)
def test_pipelines_checked_by_hand(filters: list[dict[str, Any]], samples: tuple[str, ...], answer: str | None) -> None:
    assert find(filters, *samples) == answer


@given(
    samples=st.lists(st.text("ab1 2,-#\n", max_size=10), min_size=1, max_size=5),
    pattern=st.sampled_from([r"#### (\-?[0-9\.\,]+)", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", r"[ab]+", r"(a?)(b?)"]),
    take=st.sampled_from([0, -1]),
)
def test_a_vote_over_found_answers_equals_the_harnesss_steps(samples: list[str], pattern: str, take: int) -> None:
    found = []
    for sample in samples:
        matches = re.findall(pattern, sample)
        chosen = matches[take] if matches else "[invalid]"
        if isinstance(chosen, tuple):
            chosen = next((group for group in chosen if group), "[invalid]")
        found.append(chosen.strip())
    voted = Counter(found).most_common(1)[0][0]
    regex = {"function": "regex", "regex_pattern": pattern, "group_select": take}
    assert find([regex, {"function": "majority_vote"}], *samples) == voted


def test_exact_match_compares_what_a_pipeline_leaves() -> None:
    filters = [
        {"function": "regex", "regex_pattern": r"answer is \(?([a-d])", "group_select": -1.0},
        {"function": "uppercase"},
    ]
    score = judge("exact_match", "the answer is a … no, the answer is (b)", "B", filters=filters)
    assert (score.metrics["exact_match"], score.extracted_answer) == (1.0, "B")
    lost = judge("exact_match", "x", "[invalid]", filters=[{"function": "map"}])
    assert (lost.metrics["exact_match"], lost.extracted_answer) == (1.0, None)  # as with a pattern: the fallback


def test_exact_match_lets_samples_vote() -> None:
    bound = ScorerRegistry(builtin_scorers()).bind(
        "scorers/exact_match", {"filters": [LAST_NUMBER, {"function": "majority_vote"}]}
    )
    item = ScoringItem(targets=("7",))
    score = bound.score(item, SamplesOutput(("it is 8", "so 7", "1 + 6 = 7")))
    assert (score.metrics["exact_match"], score.extracted_answer) == (1.0, "7")
    plain = ScorerRegistry(builtin_scorers()).bind("scorers/exact_match", {})
    for refuses, output in ((bound, SamplesOutput(())), (plain, SamplesOutput(("7", "7")))):
        with pytest.raises(InvalidScoreRequestError, match="set text"):
            refuses.score(item, output)


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ([{"function": "regexp"}], "parameters.filters.0"),
        ([{"function": "regex", "pattern": "a"}], "parameters.filters.0.regex.pattern"),
        ([{"function": "regex", "regex_pattern": "("}], "parameters.filters.0.regex.regex_pattern"),
        ([{"function": "take_first"}, {"function": "take_first_k"}], "parameters.filters.1.take_first_k.k"),
        ([{"function": "take_first_k", "k": 0.0}], "parameters.filters.0.take_first_k.k"),
        ([{"function": "map", "mapping_dict": {"a": 1.0}}], "parameters.filters.0.map.mapping_dict.a"),
        (["take_first"], "parameters.filters.0"),
        ([{"function": "take_first"}] * 33, "parameters.filters"),
    ],
)
def test_a_wrong_filter_is_named(filters: list[object], field: str) -> None:
    with pytest.raises(InvalidScoreRequestError) as caught:
        judge("exact_match", "a", "a", filters=filters)
    assert [violation.field for violation in caught.value.field_violations] == [field]


def test_filters_and_a_pattern_are_too_much() -> None:
    with pytest.raises(InvalidScoreRequestError, match="give one of them"):
        judge("exact_match", "a", "a", filters=[{"function": "take_first"}], pattern="a")


def test_filters_are_bounded_in_time() -> None:
    slow = PIPELINE.validate_python(({"function": "regex", "regex_pattern": "(a|aa)+$"},))
    with pytest.raises(PatternTimeoutError):
        filtered_answer(slow, ["a" * 80 + "b"], PatternMatcher(limit_seconds=0.05))


def test_filters_decide_the_digest_where_there_are_any() -> None:
    registry = ScorerRegistry(builtin_scorers())
    digests = {
        registry.bind("scorers/exact_match", {"filters": filters}).reference.digest
        for filters in ([], [{"function": "take_first"}], [{"function": "lowercase"}])
    }
    assert registry.bind("scorers/exact_match", {}).reference.digest in digests
    assert len(digests) == 3
