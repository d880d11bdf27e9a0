"""Instructions about what is written: keywords, letters, lengths, languages, case, beginnings and ends."""

from services.scoring.ifeval.arguments import ArgumentError, Arguments
from services.scoring.ifeval.layout import pattern_of
from services.scoring.ifeval.text_units import (
    count_sentences,
    count_words,
    count_words_in_capitals,
    is_in_language,
)
from services.scoring.patterns import PatternMatcher


def has_keywords(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Every keyword is somewhere, in capitals or not; a keyword is a regular expression, as in the reference."""
    keywords = sorted(arguments.texts("keywords"))
    return all(
        matcher.find_first(pattern_of("keywords", word), text, ignore_case=True) is not None for word in keywords
    )


def has_keyword_as_often(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """A keyword is there at least, or less than, so many times."""
    found = len(matcher.find_all(f"(?i)(?:{pattern_of('keyword', arguments.text('keyword').strip())})", text))
    return arguments.compares("relation", "frequency", found)


def lacks_words(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """None of the forbidden words is there as a word of its own."""
    words = sorted(set(arguments.texts("forbidden_words")))
    patterns = (rf"\b{pattern_of('forbidden_words', word)}\b" for word in words)
    return all(matcher.find_first(pattern, text, ignore_case=True) is None for pattern in patterns)


def has_letter_as_often(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """A letter, or another character, is there at least, or less than, so many times, in capitals or not."""
    letter = arguments.text("letter").strip().lower()
    if len(letter) != 1:
        raise ArgumentError("letter", "must be one character")
    return arguments.compares("let_relation", "let_frequency", text.lower().count(letter))


def is_in_the_language(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """All of it is in a language."""
    return is_in_language(text, arguments.text("language"))


def has_sentences(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least, or less than, so many sentences."""
    return arguments.compares("relation", "num_sentences", count_sentences(text))


def has_words(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least, or less than, so many words."""
    return arguments.compares("relation", "num_words", count_words(text))


def has_words_in_capitals(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least, or less than, so many words in capitals."""
    return arguments.compares("capital_relation", "capital_frequency", count_words_in_capitals(text))


def is_english_in_capitals(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """English without small letters."""
    return text.isupper() and is_in_language(text, "en")


def is_english_in_small_letters(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """English without capitals."""
    return text.islower() and is_in_language(text, "en")


def lacks_commas(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """No comma."""
    return "," not in text


def repeats_the_prompt(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Begins with the prompt, in capitals or not."""
    return text.strip().lower().startswith(arguments.text("prompt_to_repeat").strip().lower())


def ends_with_the_phrase(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Ends with a phrase, in capitals or not, possibly before quotation marks."""
    return text.strip().strip('"').lower().endswith(arguments.text("end_phrase").strip().lower())
