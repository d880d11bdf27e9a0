"""Regular expressions from callers, bounded in size and time.

The standard library's ``re`` cannot be interrupted; ``regex`` reads the same syntax (its V0 mode), takes a time limit,
and lets other threads run while it matches.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import regex
from pydantic import AfterValidator

from services.runtime.errors import FieldViolation
from services.runtime.thread_time import ThreadTimeLimit
from services.scoring.errors import PatternTimeoutError

MAX_PATTERN_CHARACTERS = 1000
MATCH_LIMIT_SECONDS = 1.0
"""Processor seconds that all patterns of one scored output may take together."""

Anchoring = Literal["search", "match", "fullmatch"]
"""Where a match may be, as Python's ``re`` names it: anywhere, at the start, the whole text."""


def compile_pattern(pattern: str, *, ignore_case: bool = False) -> regex.Pattern[str]:
    """Compile a caller's pattern.

    Raises:
        ValueError: it is no regular expression, or too long.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"is {len(pattern)} characters long; the limit is {MAX_PATTERN_CHARACTERS}")
    try:
        return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression: {error}") from error


def _checked(pattern: str) -> str:
    compile_pattern(pattern)
    return pattern


PatternText = Annotated[str, AfterValidator(_checked)]
"""A parameter that holds a regular expression."""


class PatternMatcher:
    """Matches patterns for one output, in one thread; gives up when they took ``limit_seconds`` of processor time."""

    def __init__(self, limit_seconds: float = MATCH_LIMIT_SECONDS) -> None:
        self._limit_seconds = limit_seconds
        # Begins with the first match: to ask for the time may cost as much as an exact match without patterns.
        self._time = ThreadTimeLimit(limit_seconds)

    def find_all(self, pattern: str, text: str) -> list[tuple[str, ...]]:
        """Return each match as the texts of its groups, or as its whole text where the pattern has no groups.

        Raises:
            PatternTimeoutError: the limit is used up.
        """
        compiled = compile_pattern(pattern)
        found = self._within_time(pattern, lambda seconds: compiled.findall(text, timeout=seconds))
        return [match if isinstance(match, tuple) else (match,) for match in found]

    def find_first(
        self, pattern: str, text: str, *, anchoring: Anchoring = "search", ignore_case: bool = False
    ) -> tuple[str, ...] | None:
        """Return the first match as ``find_all`` does; ``None`` if there is none.

        Raises:
            PatternTimeoutError: the limit is used up.
        """
        find = getattr(compile_pattern(pattern, ignore_case=ignore_case), anchoring)
        match = self._within_time(pattern, lambda seconds: find(text, timeout=seconds))
        if match is None:
            return None
        groups: tuple[str, ...] = match.groups(default="") or (match[0],)
        return groups

    def remove_all(self, pattern: str, text: str) -> str:
        """Return ``text`` without what matches.

        Raises:
            PatternTimeoutError: the limit is used up.
        """
        compiled = compile_pattern(pattern)
        kept: str = self._within_time(pattern, lambda seconds: compiled.sub("", text, timeout=seconds))
        return kept

    def check(self, sought: str) -> None:
        """Give up when what was sought before has used the limit up.

        Raises:
            PatternTimeoutError: the limit is used up.
        """
        try:
            self._time.left()
        except TimeoutError:
            raise self._timed_out(sought) from None

    def _within_time(self, pattern: str, match: Callable[[float], Any]) -> Any:
        # Neither a busy machine nor a neighbour's slow pattern changes a score.
        try:
            return self._time.attempt(match)
        except TimeoutError:
            raise self._timed_out(pattern) from None

    def _timed_out(self, pattern: str) -> PatternTimeoutError:
        shown = pattern if len(pattern) <= 80 else pattern[:79] + "…"
        return PatternTimeoutError(
            f"the pattern {shown!r} took more than {self._limit_seconds:g} s on this output; "
            "avoid nested and overlapping repeats such as (a|aa)+",
            metadata={"pattern": shown, "limit_seconds": f"{self._limit_seconds:g}"},
            field_violations=(FieldViolation("parameters", f"pattern {shown!r} takes too long"),),
        )
