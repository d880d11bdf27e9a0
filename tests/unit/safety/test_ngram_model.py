"""What the n-gram classifier computes: known words decide, unknown ones are told apart, each text is for itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.ngram_model import NgramSettings, hashing_digest, sigmoid
from tests.fakes.ngrams import HARMFUL, HARMLESS, SENTENCES, SETTINGS, tiny_ngrams

TEXTS = [text for text, _ in SENTENCES]


def test_it_knows_what_it_was_taught_in_new_words_and_letters() -> None:
    for harmful, harmless in zip(HARMFUL, HARMLESS, strict=True):
        worse, better = tiny_ngrams().unsafe_probabilities([f"{harmful.upper()}!", f"please {harmless}s"])
        assert worse > 0.5 > better


def test_a_text_is_read_alike_alone_and_among_others() -> None:
    together = tiny_ngrams().read(TEXTS)
    alone = [tiny_ngrams().read([text]) for text in TEXTS]
    assert np.abs(together.probabilities - np.concatenate([each.probabilities for each in alone])).max() < 1e-12
    assert together.known_shares.tolist() == [each.known_shares[0] for each in alone]


def test_no_texts_are_no_answers() -> None:
    said = tiny_ngrams().read([])
    assert said.probabilities.shape == (0, 1)
    assert tiny_ngrams().unsafe_probabilities([]).tolist() == []


def test_it_says_how_much_of_a_text_it_knows() -> None:
    said = tiny_ngrams().read(["How do I bake bread?", "How backe ich Brot?", "安全", "12 34", "", "😀"])
    assert said.known_shares.tolist() == [4 / 5, 1 / 4, 0, 0, 0, 0]
    assert said.num_words == [5, 4, 1, 0, 0, 0]


def test_what_was_never_seen_does_not_count() -> None:
    known, longer = tiny_ngrams().unsafe_probabilities(["bomb", "bomb \U0001f9e8\U0001f9e8\U0001f9e8"])
    assert known == pytest.approx(longer, abs=0.05)


def test_what_is_too_long_is_cut_and_marked() -> None:
    text = "bake a loaf " * 100
    said = tiny_ngrams().read([text, text[: SETTINGS.max_characters], f"{text[: SETTINGS.max_characters]} bomb"])
    assert said.truncated == [True, False, True]
    assert said.probabilities[2] == said.probabilities[1]


@pytest.mark.parametrize("text", ["bake a LOAF", "bake a loaf", "ｂａｋｅ a loaf", "ba\u00adke  a\n\u200bloaf"])
def test_the_same_words_in_other_signs_are_the_same(text: str) -> None:
    assert tiny_ngrams().unsafe_probabilities([text]) == tiny_ngrams().unsafe_probabilities(["bake a loaf"])


@given(st.lists(st.text(), max_size=5))
def test_any_text_has_a_probability(texts: list[str]) -> None:
    said = tiny_ngrams().read(texts)
    assert ((said.probabilities >= 0) & (said.probabilities <= 1)).all()
    assert ((said.known_shares >= 0) & (said.known_shares <= 1)).all()


def test_a_lone_surrogate_is_a_sign_like_others() -> None:
    assert tiny_ngrams().unsafe_probabilities(["bake \ud800 loaf"]) < 0.5


def test_large_logits_do_not_overflow_and_nan_stays_nan() -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid(np.array([-2000.0, 0.0, 2000.0])).tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


def test_the_digest_of_the_counting_depends_on_what_is_counted() -> None:
    digests = {
        hashing_digest(each)
        for each in (SETTINGS, NgramSettings(features=2**11), NgramSettings(features=2**10, characters=(2, 4)))
    }
    assert len(digests) == 3
    assert hashing_digest(SETTINGS) == hashing_digest(SETTINGS)


def test_the_counting_is_what_committed_guards_were_trained_with() -> None:
    """If this fails after an update of scikit-learn, guards that were trained before are refused: CHANGELOG says so."""
    assert hashing_digest(NgramSettings()) == "f566285a7a3bff7d3dfb1acfbad58263caf7236bf8124f47bdff6f4d3523c968"
