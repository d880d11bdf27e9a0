"""What code runners, and those who have programs run by them, agree on beside the protocol's messages."""

from collections.abc import Iterable
from typing import Any, Final

LONGEST_TURN_SECONDS: Final = 60.0
"""A program that waited so long for its turn is sent away: whoever asked gives it to another code runner."""
PROGRAM_BEGUN: Final = (("evalfleet-program-begun", "1"),)
"""Initial metadata, sent when a program has its turn: it can have ended no code runner before."""


def has_begun(metadata: "Iterable[Any] | None") -> bool:
    """Whether a code runner said with this initial metadata that the program has had its turn."""
    return PROGRAM_BEGUN[0] in {tuple(each) for each in metadata or ()}
