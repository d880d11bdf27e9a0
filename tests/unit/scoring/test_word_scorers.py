"""Quasi-exact match and word overlap against the definitions that they name, on real rows and wild texts."""

import re
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.data.metrics.squad_metrics import compute_f1, normalize_answer

from services.scoring.normalisation import squad_normalised
from services.scoring.scorers.quasi_exact_match import QuasiExactMatch
from tests.unit.scoring.crafted_outputs import CraftedOutput, multilingual_answers, short_answers
from tests.unit.scoring.judging import judge


def helm_quasi_exact_match(gold: str, output: str) -> bool:
    """HELM's definition (helm/benchmark/metrics/evaluate_reference_metrics.py), written out anew."""
    if not output:
        return False
    return helm_normalised(gold) == helm_normalised(output)


def helm_normalised(text: str, *, articles: bool = False) -> str:
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join((letters if articles else re.sub(r"\b(a|an|the)\b", " ", letters)).split())


def assert_as_defined(crafted: CraftedOutput) -> None:
    text, targets = crafted.text, crafted.targets
    assert squad_normalised(text) == normalize_answer(text)
    quasi = judge("quasi_exact_match", text, *targets).metrics
    assert quasi["quasi_exact_match"] == any(helm_quasi_exact_match(target, text) for target in targets)
    assert quasi["quasi_prefix_exact_match"] == any(
        bool(text) and helm_normalised(text).startswith(helm_normalised(target)) for target in targets
    )
    kept = judge("quasi_exact_match", text, *targets, keep_articles=True).metrics["quasi_exact_match"]
    assert kept == any(
        bool(text) and helm_normalised(text, articles=True) == helm_normalised(target, articles=True)
        for target in targets
    )
    assert judge("token_f1", text, *targets).metrics["f1"] == max(compute_f1(target, text) for target in targets)


def test_agree_with_the_definitions_on_real_rows(data_dir: Path) -> None:
    seen: Counter[float] = Counter()
    for crafted in [*short_answers(data_dir, every=2), *multilingual_answers(data_dir, every=5)]:
        assert_as_defined(crafted)
        seen[judge("quasi_exact_match", crafted.text, *crafted.targets).metrics["quasi_exact_match"]] += 1
    assert seen[0.0] > 100
    assert seen[1.0] > 100


@given(st.text(max_size=40), st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_agree_with_the_definitions_on_wild_texts(text: str, targets: list[str]) -> None:
    assert_as_defined(CraftedOutput(text, tuple(targets)))


@given(st.lists(st.sampled_from(["a", "The", "cat", "sat", ".", "sat."]), max_size=8).map(" ".join))
def test_agree_with_the_definitions_on_close_texts(text: str) -> None:
    assert_as_defined(CraftedOutput(text, ("the cat sat", "A cat.", "the")))


@pytest.mark.parametrize(("text", "target", "begins"), [("Paris", "The?", 1), ("", "The?", 0), ("Paris", "Rome", 0)])
def test_a_target_without_words_begins_every_text_as_in_helm(text: str, target: str, begins: float) -> None:
    score = judge("quasi_exact_match", text, target)
    assert score.metrics == {"quasi_exact_match": 0.0, "quasi_prefix_exact_match": begins}
    [_, prefix] = QuasiExactMatch.about.metrics
    assert "begins every text that is not empty, as in HELM" in prefix.description


@pytest.mark.parametrize(
    ("text", "target", "f1", "precision", "recall"),
    [
        ("the cat sat", "A cat sat down.", 0.8, 1, 2 / 3),
        ("cat cat cat", "cat", 0.5, 1 / 3, 1),
        ("dog", "cat", 0, 0, 0),
        ("", "the", 1, 1, 1),  # neither has words left
        ("", "cat", 0, 0, 0),
    ],
)
def test_word_overlap_checked_by_hand(text: str, target: str, f1: float, precision: float, recall: float) -> None:
    metrics = judge("token_f1", text, target).metrics
    assert metrics == pytest.approx({"f1": f1, "precision": precision, "recall": recall})


def test_the_best_target_counts_with_its_own_precision() -> None:
    score = judge("token_f1", "red green blue", "red", "red green")
    assert score.metrics == pytest.approx({"f1": 0.8, "precision": 2 / 3, "recall": 1.0})


def test_a_text_of_a_megabyte_is_judged() -> None:
    text = "the cat, sat " * 80_000
    assert judge("quasi_exact_match", text, text).metrics["quasi_exact_match"] == 1.0
    assert judge("token_f1", text, "cat").metrics["recall"] == 1.0
