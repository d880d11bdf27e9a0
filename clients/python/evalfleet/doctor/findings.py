"""What a check says, and where other distributions bring theirs."""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

CHECK_GROUP: Final = "evalfleet.checks"
"""Entry-point group of other distributions' checks; each is a ``Check``."""


class FindingState(enum.StrEnum):
    """How what was looked for is: WARN works, but slower, with less, or not for long."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing that EvalFleet can use.

    Attributes:
        area: what it belongs to: ``machine``, ``client``, ``services``, ``sandbox``, ``stores``, ``data``, ``fleet``.
        subject: what was looked for: ``tritonserver``.
        state: how it is.
        told: what was found, and what does not work without it, in a sentence.
        remedy: the command that gets it; empty where there is nothing to get.
        is_needed: whether a fleet with default settings cannot do without.
    """

    area: str
    subject: str
    state: FindingState
    told: str
    remedy: str = ""
    is_needed: bool = False

    @property
    def is_fatal(self) -> bool:
        """Whether a default fleet lacks it."""
        return self.is_needed and self.state is FindingState.MISSING


Check: TypeAlias = Callable[[Path], Iterable[Finding]]
"""Looks at this machine; takes the state folder of its fleet."""
