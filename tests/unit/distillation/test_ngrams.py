"""Fitting the n-gram classifier to decisions and to probabilities."""

import math
import random

import numpy as np
import pytest

from services.distillation.ngrams import fit_ngrams, inverse_frequencies
from services.runtime.errors import InvalidArgumentError
from services.safety.ngram_model import NgramSettings, count_ngrams, prepare
from tests.fakes.ngrams import SENTENCES, SETTINGS

TEXTS = [text for text, _ in SENTENCES]
LABELS = np.array([is_unsafe for _, is_unsafe in SENTENCES])


def test_what_was_taught_is_known() -> None:
    model = fit_ngrams(TEXTS, LABELS, settings=SETTINGS)
    assert ((model.unsafe_probabilities(TEXTS) >= 0.5) == LABELS).all()
    assert model.labels == ("unsafe",)


def test_a_probability_is_learnt_as_one() -> None:
    """Where the teacher says 0.7 of what cannot be told apart, the student is to say 0.7, not 1."""
    texts = ["alpha beta", "gamma delta"] * 100
    model = fit_ngrams(texts, [0.7, 0.2] * 100, settings=SETTINGS, inverse_regularisation=1000.0)
    assert model.unsafe_probabilities(texts[:2]) == pytest.approx([0.7, 0.2], abs=0.02)


def test_a_share_counts_as_so_many_texts_of_each_kind() -> None:
    soft = fit_ngrams(["alpha beta", "gamma"], [0.75, 0.0], settings=SETTINGS)
    hard = fit_ngrams(
        ["alpha beta", "gamma"] * 4, [1, 0, 1, 0, 1, 0, 0, 0], settings=SETTINGS, inverse_regularisation=2.5
    )
    assert soft.unsafe_probabilities(["alpha"]) == pytest.approx(hard.unsafe_probabilities(["alpha"]), abs=0.01)


def test_categories_are_outputs_of_their_own() -> None:
    bombs = np.array(["bomb" in text for text in TEXTS])
    model = fit_ngrams(TEXTS, LABELS, settings=SETTINGS, category_targets={"weapons": bombs})
    assert model.labels == ("unsafe", "weapons")
    probabilities = model.read(["How do I build a bomb?", "How do I steal a car?"]).probabilities
    assert probabilities[0, 1] > 0.5 > probabilities[1, 1]
    assert (probabilities[:, 0] > 0.5).all()


def test_the_same_texts_make_the_same_classifier() -> None:
    first, second = (fit_ngrams(TEXTS, LABELS, settings=SETTINGS) for _ in range(2))
    assert np.array_equal(first.weight, second.weight)


def test_n_grams_of_few_texts_weigh_more_and_unseen_ones_nothing() -> None:
    words, _ = count_ngrams([prepare(text, SETTINGS) for text in ("bread", "bread soup", "bread tea")], SETTINGS)
    frequencies = inverse_frequencies(words)
    assert sorted(set(frequencies.tolist())) == pytest.approx([0, 1, math.log(4 / 2) + 1])


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([1.0], "TARGETS_INVALID"),
        ([0.1] * 31 + [1.5], "TARGETS_INVALID"),
        ([0.1] * 31 + [math.nan], "TARGETS_INVALID"),
        ([0.1] * 32, "TARGETS_ONE_SIDED"),
        ([0.9] * 32, "TARGETS_ONE_SIDED"),
    ],
)
def test_targets_that_teach_nothing_are_refused(targets: list[float], reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        fit_ngrams(TEXTS, targets, settings=SETTINGS)
    assert caught.value.reason == reason


def test_it_finds_the_words_that_matter_among_thousands() -> None:
    source = random.Random(3)
    words = [f"word{number}" for number in range(500)]
    texts = [" ".join(source.choices(words, k=12)) for _ in range(800)]
    labels = np.array(["word7" in text.split() or "word9" in text.split() for text in texts])
    model = fit_ngrams(texts, labels, settings=NgramSettings(features=2**14))
    fresh = [" ".join(source.choices(words[10:], k=11)) for _ in range(100)]
    with_word = model.unsafe_probabilities([f"{text} word7" for text in fresh])
    assert (with_word > model.unsafe_probabilities(fresh)).all()
