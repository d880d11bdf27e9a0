"""Instructions about how a response is laid out: lists, sections, paragraphs, titles, quotes.

Each takes time in proportion to the text, whatever the text: regular expressions that could try one position after the
other for the same stretch are written out as searches.
"""

import json
import re

from services.scoring.ifeval.arguments import ArgumentError, Arguments
from services.scoring.patterns import PatternMatcher, compile_pattern

# White space before the bullet is looked for on its own line only: blank lines before it make no difference.
_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*([^\n*]*)\*\*")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
# Escaped it may be twice as long, and some patterns go around it.
_LONGEST_PATTERN = 400
_FENCES = ("```json", "```Json", "```JSON", "```")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ENDS_FIRST_WORD = re.compile(r"[.,?!'\"]")


def pattern_of(name: str, text: str) -> str:
    """Return an argument as a regular expression, which the reference takes it for, or as itself if it is none.

    Raises:
        ArgumentError: it is too long.
    """
    if len(text) > _LONGEST_PATTERN:
        raise ArgumentError(name, f"is longer than {_LONGEST_PATTERN} characters")
    try:
        compile_pattern(text)
    except ValueError:
        return re.escape(text)
    return text


def has_placeholders(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least so many ``[placeholders]``, each on one line."""
    found = 0
    for line in text.split("\n"):
        start = line.find("[")
        while start >= 0 and (end := line.find("]", start)) >= 0:
            found += 1
            start = line.find("[", end)
    return found >= arguments.count("num_placeholders")


def has_bullets(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Exactly so many lines that begin with ``*`` or ``-``."""
    found = len(_STAR_BULLET.findall(text)) + len(_DASH_BULLET.findall(text))
    return found == arguments.count("num_bullets")


def is_one_of_the_answers(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """One of the three answers that IFEval offers is somewhere in the response."""
    return any(answer in text for answer in _ANSWERS)


def has_highlights(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least so many ``*highlighted*`` stretches; a ``**doubled**`` one counts once."""
    found = sum(bool(inside.strip()) for inside in _HIGHLIGHT.findall(text))
    found += sum(bool(inside.strip()) for inside in _DOUBLE_HIGHLIGHT.findall(text))
    return found >= arguments.count("num_highlights")


def has_sections(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """At least so many sections, each begun by the splitter and a number."""
    splitter = pattern_of("section_spliter", arguments.text("section_spliter").strip())
    return len(matcher.find_all(rf"(?:\s?{splitter}\s?\d+\s?)", text)) >= arguments.count("num_sections")


def has_divided_paragraphs(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Exactly so many paragraphs with ``***`` between them; none in the middle is empty."""
    wanted = arguments.count("num_paragraphs")
    paragraphs = [paragraph.strip() for paragraph in _DIVIDER.split(text)]
    return all(paragraphs[1:-1]) and sum(bool(paragraph) for paragraph in paragraphs) == wanted


def has_paragraph_beginning(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Exactly so many paragraphs with blank lines between them, of which the n-th begins with a word."""
    wanted, nth = arguments.count("num_paragraphs"), arguments.count("nth_paragraph")
    if nth > wanted:
        raise ArgumentError("nth_paragraph", f"is {nth}, beyond the {wanted} paragraphs")
    word = arguments.text("first_word").lower()
    paragraphs = text.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    # Empty ones count for the position though not for the number, as in the reference.
    if nth > count or not paragraphs[nth - 1].strip():
        return False
    first = paragraphs[nth - 1].split()[0].lstrip("'").lstrip('"')
    return count == wanted and _ENDS_FIRST_WORD.split(first, maxsplit=1)[0].lower() == word


def has_postscript(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """A postscript's marker is somewhere, in capitals or not."""
    marker = arguments.text("postscript_marker").strip()
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return (
        matcher.find_first(known.get(marker) or pattern_of("postscript_marker", marker.lower()), text.lower())
        is not None
    )


def is_json(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """All of it is JSON, possibly in a Markdown fence."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """A ``<<title>>`` that is more than brackets stands on one line."""
    return any(_has_title(line) for line in text.split("\n"))


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return start >= 0 and start + 3 <= end and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def is_quoted(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """All of it stands between double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def has_two_responses(text: str, arguments: Arguments, matcher: PatternMatcher) -> bool:
    """Two responses that differ, with six asterisks between them."""
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]
