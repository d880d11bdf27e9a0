"""Whether a response follows an instruction: as it stands, or in one of the forms that the loose metric forgives."""

from collections.abc import Mapping

from pydantic import JsonValue

from services.scoring.ifeval.arguments import Arguments
from services.scoring.ifeval.registry import CHECKS
from services.scoring.patterns import PatternMatcher


def follows(instruction: str, given: Mapping[str, JsonValue], response: str, matcher: PatternMatcher) -> bool:
    """Whether the response as it stands follows the instruction; an empty one follows none.

    Raises:
        ArgumentError: the instruction's arguments make no sense.
        PatternTimeoutError: a keyword that is a regular expression takes too long.
    """
    arguments = Arguments(given)
    # Checked for an empty response too, so that the arguments are.
    followed = CHECKS[instruction](response, arguments, matcher)
    arguments.check_all_were_read()
    return followed and bool(response.strip())


def follows_loosely(instruction: str, given: Mapping[str, JsonValue], response: str, matcher: PatternMatcher) -> bool:
    """Whether the response follows without asterisks, its first line, its last line, or some of these.

    Raises what ``follows`` does.
    """
    return any(follows(instruction, given, form, matcher) for form in loose_forms(response))


def loose_forms(response: str) -> list[str]:
    """Return the response with and without asterisks, first line and last line, each form once."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cut, *(form.replace("*", "") for form in cut)]))
