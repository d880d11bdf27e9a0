"""ROUGE, BLEU, chrF and edit distance against the implementations that define them, on real rows and wild texts."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from services.scoring.errors import TextTooLongError
from services.scoring.lcs import lcs_length, lcs_positions
from tests.unit.scoring.crafted_outputs import CraftedOutput, long_answers, multilingual_answers, short_answers
from tests.unit.scoring.judging import judge

ROUGE = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])


@pytest.fixture(scope="module")
def crafted(data_dir: Path) -> list[CraftedOutput]:
    return [
        *short_answers(data_dir, every=12),
        *multilingual_answers(data_dir, every=21),
        *long_answers(data_dir, count=12),
    ]


def assert_rouge_agrees(text: str, targets: tuple[str, ...], measure: str = "fmeasure") -> None:
    theirs = ROUGE.score_multi(targets, text)
    metrics = judge("rouge", text, *targets, measure=measure).metrics
    assert metrics == {name: getattr(score, measure) for name, score in theirs.items()}


@pytest.mark.parametrize("measure", ["fmeasure", "precision", "recall"])
def test_rouge_is_rouge_scores_on_real_rows(crafted: list[CraftedOutput], measure: str) -> None:
    for each in islice(crafted, 0, None, 1 if measure == "fmeasure" else 6):
        assert_rouge_agrees(each.text, each.targets, measure)


LINES = st.lists(st.lists(st.sampled_from("abcde"), max_size=7).map(" ".join), max_size=5).map("\n".join)


@given(LINES, st.lists(LINES, min_size=1, max_size=3))
def test_rouge_is_rouge_scores_on_close_lines(text: str, targets: list[str]) -> None:
    assert_rouge_agrees(text, tuple(targets))


@given(st.text(max_size=40), st.text(max_size=40))
def test_rouge_is_rouge_scores_on_wild_texts(text: str, target: str) -> None:
    assert_rouge_agrees(text, (target,))


@given(st.text("ab", max_size=9), st.text("abc", max_size=9))
def test_a_common_subsequence_is_one_and_is_as_long_as_said(reference: str, candidate: str) -> None:
    positions = sorted(lcs_positions(reference, candidate))
    rest = iter(candidate)
    assert all(reference[position] in rest for position in positions)
    assert len(positions) == lcs_length(reference, candidate) == lcs_length(candidate, reference)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"tokenize": "intl", "lowercase": True},
        {"tokenize": "zh"},
        {"tokenize": "char", "max_ngram_order": 2.0},
        {"tokenize": "none", "smooth_method": "floor", "smooth_value": 0.2},
        {"smooth_method": "add-k"},
        {"smooth_method": "none", "effective_order": False},
    ],
)
def test_bleu_is_sacrebleus(crafted: list[CraftedOutput], parameters: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in parameters.items()
    }
    options.setdefault("effective_order", True)
    theirs = sacrebleu.BLEU(**options)
    for each in islice(crafted, 0, None, 4):
        expected = theirs.sentence_score(each.text, list(each.targets)).score / 100
        ours = judge("bleu", each.text, *each.targets, **parameters).metrics["bleu"]
        assert ours == min(expected, 1.0)


@pytest.mark.parametrize(
    "parameters", [{}, {"word_order": 2}, {"char_order": 3, "beta": 1, "lowercase": True}, {"whitespace": True}]
)
def test_chrf_is_sacrebleus(crafted: list[CraftedOutput], parameters: dict[str, Any]) -> None:
    theirs = sacrebleu.CHRF(**parameters)
    for each in islice(crafted, 0, None, 8):
        expected = theirs.sentence_score(each.text, list(each.targets)).score / 100
        assert judge("chrf", each.text, *each.targets, **parameters).metrics["chrf"] == min(expected, 1.0)


def test_sacrebleu_remembers_no_text() -> None:
    judge("bleu", "a text that is not kept", "another")
    assert Tokenizer13a.__call__.cache_info().currsize == 0


@pytest.mark.parametrize("scorer", ["bleu", "chrf", "rouge"])
@given(text=st.text(max_size=30), targets=st.lists(st.text(max_size=30), min_size=1, max_size=2))
def test_wild_texts_score_from_zero_to_one(scorer: str, text: str, targets: list[str]) -> None:
    assert all(0.0 <= value <= 1.0 for value in judge(scorer, text, *targets).metrics.values())


@pytest.mark.parametrize("scorer", ["bleu", "chrf", "rouge"])
def test_a_text_equals_itself(scorer: str) -> None:
    assert set(judge(scorer, "the cat sat on the mat", "the cat sat on the mat").metrics.values()) == {1.0}


def levenshtein(left: str, right: str) -> int:
    """The definition: insertions, deletions and substitutions cost one."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@given(st.text(max_size=12), st.lists(st.text(max_size=12) | st.text("ab", max_size=12), min_size=1, max_size=3))
def test_edit_distance_is_levenshteins(text: str, targets: list[str]) -> None:
    expected = min(levenshtein(text, target) / (max(len(text), len(target)) or 1) for target in targets)
    metrics = judge("edit_distance", text, *targets).metrics
    assert metrics == pytest.approx({"edit_similarity": 1 - expected, "edit_distance": expected})


@pytest.mark.parametrize(
    ("text", "target", "parameters", "similarity"),
    [
        ("kitten", "sitting", {}, 4 / 7),
        ("Ab", "aB", {"ignore_case": True}, 1),
        (" ab\n", "ab", {"strip": True}, 1),
        ("the cat  sat", "the dog sat", {"unit": "words"}, 2 / 3),
        ("", "", {}, 1),
        ("a" * 100_000, "b" * 100_000, {}, 0),
    ],
)
def test_edit_distance_checked_by_hand(text: str, target: str, parameters: dict[str, Any], similarity: float) -> None:
    score = judge("edit_distance", text, target, **parameters)
    assert score.metrics["edit_similarity"] == pytest.approx(similarity)


def test_the_nearest_target_is_the_answer() -> None:
    assert judge("edit_distance", "cats", "dogs", "cat", "cut").extracted_answer == "cat"


@pytest.mark.parametrize("scorer", ["bleu", "chrf", "edit_distance", "rouge"])
@pytest.mark.parametrize(
    ("text", "targets", "field"),
    [
        ("a" * 1_000_000, ("a",), "text"),
        ("a", ("a" * 60_000, "a" * 60_000), "targets"),
        ("a" * 90_000, ("a",) * 12, "text"),
    ],
)
def test_texts_that_would_take_too_long_are_refused(
    scorer: str, text: str, targets: tuple[str, ...], field: str
) -> None:
    with pytest.raises(TextTooLongError) as caught:
        judge(scorer, text, *targets)
    assert [violation.field for violation in caught.value.field_violations] == [field]


@pytest.mark.parametrize("make", [lambda: "a b\n" * 20_000, lambda: "a " * 40_000])
def test_rouge_refuses_lines_that_would_take_too_long(make: Callable[[], str]) -> None:
    with pytest.raises(TextTooLongError) as caught:
        judge("rouge", make(), make())
    assert caught.value.reason == "TEXT_TOO_LONG"
