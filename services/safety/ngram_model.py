"""A linear classifier on hashed n-grams of words and of characters: what it computes, without files or servers."""

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.safety.errors import NgramsNotInstalledError
from services.safety.normalising import normalised

TEMPLATE: Final = "judged-turn-content-ngrams/2"
"""How a conversation becomes features: the judged turn's content, normalised, a long one in windows."""
# Whatever a version of the library might do otherwise: umlauts, ligatures, digits, other scripts, apostrophes.
_HASHED_TEXTS: Final = ("How do I bake 12 loaves?", "Straße, ﬁne naïve café — it's 3.5 °C", "面包 и хлеб", "a b-c_d e")
_WORD: Final = re.compile(r"\w+")

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NgramSettings:
    """Which n-grams are counted.

    Attributes:
        words: least and most words of an n-gram.
        characters: least and most characters of an n-gram inside a word, a space on either side included.
        features: numbers that n-grams of words are hashed to, a power of two; as many again for characters.
        max_characters: longest text; what is longer is cut here and read in windows by the guard. In longer windows, a
            hazardous sentence would drown in harmless ones.
    """

    words: tuple[int, int] = (1, 2)
    characters: tuple[int, int] = (2, 5)
    features: int = 2**18
    max_characters: int = 1000


USUAL_SETTINGS: Final = NgramSettings()


@dataclass(frozen=True, slots=True)
class NgramAnswers:
    """What the classifier says of texts.

    Attributes:
        probabilities: float64 [texts, labels].
        num_words: words of each text that hold a letter.
        known_shares: float64 [texts], the share of those that occurred in training; 0 where there are none.
        truncated: whether a text was cut.
    """

    probabilities: Numbers
    num_words: Sequence[int]
    known_shares: Numbers
    truncated: Sequence[bool]


@dataclass(frozen=True, slots=True)
class NgramModel:
    """The classifier: p = σ(Wx + b), x the two kinds of n-grams, each as (1 + ln count) · idf at length 1.

    One label is one row. What no training text had is not looked at; ``known_shares`` says how much was left.

    Attributes:
        settings: which n-grams.
        labels: ``unsafe``, or codes of categories.
        weight: float64 [features, labels], n-grams of words first.
        bias: float64 [labels].
        scale: float64 [features], the idf of each; 0 where training never had it.
        known_words: checksums of the words of the training texts.
    """

    settings: NgramSettings
    labels: tuple[str, ...]
    weight: Numbers
    bias: Numbers
    scale: Numbers
    known_words: frozenset[int]

    def read(self, texts: Sequence[str]) -> NgramAnswers:
        """Return what it says of texts, each for itself. Takes processor time."""
        if not texts:
            return NgramAnswers(np.empty((0, len(self.labels))), (), np.empty(0), ())
        prepared = [prepare(text, self.settings) for text in texts]
        logits = np.tile(self.bias, (len(texts), 1))
        for kind, counts in enumerate(count_ngrams(prepared, self.settings)):
            block = slice(kind * self.settings.features, (kind + 1) * self.settings.features)
            logits += scaled(counts, self.scale[block]) @ self.weight[block]
        words = [words_of(text) for text in prepared]
        known = [sum(word in self.known_words for word in of_text) for of_text in words]
        return NgramAnswers(
            probabilities=sigmoid(logits),
            num_words=[len(of_text) for of_text in words],
            known_shares=np.array([found / max(1, len(of)) for found, of in zip(known, words, strict=True)]),
            truncated=[len(text) > self.settings.max_characters for text in texts],
        )

    def unsafe_probabilities(self, texts: Sequence[str]) -> Numbers:
        """Return the largest probability of any label, float64 [texts], also of texts that it knows nothing of."""
        largest: Numbers = self.read(texts).probabilities.max(axis=1, initial=0.0)
        return largest


def prepare(text: str, settings: NgramSettings) -> str:
    """Return what of a text is looked at. A lone surrogate, which has no bytes to hash, becomes a question mark."""
    return normalised(text[: settings.max_characters].encode("utf-8", "replace").decode("utf-8"))


def count_ngrams(prepared: Sequence[str], settings: NgramSettings) -> tuple[Any, Any]:
    """Return how often each n-gram occurs, of words and of characters: sparse float64 [texts, features] each.

    Raises:
        NgramsNotInstalledError: scikit-learn is not there.
    """
    words, characters = (_vectorizer(settings, kind) for kind in ("word", "char_wb"))
    return words.transform(prepared), characters.transform(prepared)


def scaled(counts: Any, scale: Numbers) -> Any:
    """Return (1 + ln count) · idf, every row at length 1; a row of which nothing is known stays zero."""
    rows = counts.copy()
    rows.data = (1 + np.log(rows.data)) * scale[rows.indices]
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    rows.data /= np.repeat(np.where(lengths > 0, lengths, 1.0), np.diff(rows.indptr))
    return rows


def words_of(prepared: str) -> list[int]:
    """Return the checksums of a prepared text's words; what is made of digits alone is none."""
    return [zlib.crc32(word.encode()) for word in _WORD.findall(prepared) if not word.isdigit()]


def sigmoid(logits: Numbers) -> Numbers:
    """Return 1 / (1 + exp(-logits)) without overflow; NaN stays NaN."""
    small = np.exp(-np.abs(logits))
    probabilities: Numbers = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def hashing_digest(settings: NgramSettings) -> str:
    """Return the SHA-256 (hex) of the n-grams of fixed texts: it differs where a library's version counts otherwise."""
    digest = hashlib.sha256()
    for counts in count_ngrams([prepare(text, settings) for text in _HASHED_TEXTS], settings):
        counts.sort_indices()
        for part in (counts.indptr, counts.indices, counts.data):
            digest.update(np.asarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _vectorizer(settings: NgramSettings, kind: str) -> Any:
    # Half a second that a service without such a guard need not wait for.
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise NgramsNotInstalledError(
            f"guards of the kind ngrams need scikit-learn ({error}): pip install 'evalfleet-services[ngrams]'"
        ) from error
    return HashingVectorizer(
        analyzer=kind,
        ngram_range=settings.words if kind == "word" else settings.characters,
        token_pattern=r"\w+" if kind == "word" else None,
        n_features=settings.features,
        lowercase=False,
        norm=None,
        alternate_sign=False,
    )
