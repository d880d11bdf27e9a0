"""What goes for which callers: by name, by the beginning of names, or for everybody else."""

from collections.abc import Mapping
from typing import Annotated, Final, Generic, TypeVar

from pydantic import StringConstraints

ANY_OTHER: Final = "*"

CallerPattern = Annotated[str, StringConstraints(pattern=r"^(?:[a-zA-Z0-9._@/-]{1,64}|[a-zA-Z0-9._@/-]{0,63}\*)$")]
"""A caller's name, or the beginning of names followed by ``*``."""

TermsT = TypeVar("TermsT")


class CallerPatterns(Generic[TermsT]):
    """Terms by pattern. A caller's own name goes before patterns, and of these the one with the longest beginning.

    Args:
        by_pattern: the terms of those who fit a CallerPattern.
        default: those of everybody else.
    """

    def __init__(self, by_pattern: Mapping[str, TermsT], default: TermsT) -> None:
        self._by_pattern = dict(by_pattern)
        self._default = default
        beginnings = [pattern[:-1] for pattern in by_pattern if pattern.endswith("*")]
        self._beginnings = sorted(beginnings, key=len, reverse=True)

    def of(self, caller: str) -> tuple[str, TermsT]:
        """Return the pattern that a caller fits (``*`` for everybody else) and its terms."""
        if caller in self._by_pattern:
            return caller, self._by_pattern[caller]
        for beginning in self._beginnings:
            if caller.startswith(beginning):
                pattern = f"{beginning}*"
                return pattern, self._by_pattern[pattern]
        return ANY_OTHER, self._default
