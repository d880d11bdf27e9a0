"""What a policy says, checked once when it is made."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final

from services.safety.judgement import Aspect, PolicyReference
from services.safety.policies.hazards import problem_of_code

MOST_GUARDS: Final = 8
MOST_HAZARDS: Final = 256
_RULES_VERSION: Final = "evalfleet/policy/3"


class Combination(Enum):
    """How several guards make one decision."""

    ANY_UNSAFE = "any-unsafe"
    MAJORITY = "majority"


class ErrorHandling(Enum):
    """What becomes of the decision ERROR."""

    ERROR = "error"
    UNSAFE = "unsafe"


class ControversialHandling(Enum):
    """What becomes of the middle level of guards that have one."""

    KEEP = "keep"
    UNSAFE = "unsafe"
    SAFE = "safe"


class TruncationHandling(Enum):
    """What becomes of SAFE where a guard read a part of the text only."""

    ERROR = "error"
    JUDGED_PART = "judged-part"


class PolicyFieldError(ValueError):
    """A policy that makes no sense.

    Attributes:
        field: path in the policy: ``hazards[2].code``.
        problem: what is wrong with it, and what to do.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class PolicyHazard:
    """A hazard that counts, from a probability on; without one, from the policy's or the guard's."""

    code: str
    threshold: float | None = None


@dataclass(frozen=True)
class Policy:
    """The rules by which guards' verdicts become one verdict.

    Attributes:
        name: resource name, ``policies/{policy}``; empty for a caller's own.
        version: that its authors gave it.
        description: a sentence.
        aspects: what it judges.
        guards: resource names of those that judge; empty for the one that a request names, or the default.
        combination: how several guards make one decision.
        threshold: above 0 and up to 1; None takes each guard's own.
        hazards: what counts; empty for all that the guards know.
        on_error: what becomes of ERROR.
        on_controversial: what becomes of CONTROVERSIAL.
        on_truncated: what becomes of SAFE where the rest of the text was not read.

    Raises:
        PolicyFieldError: a field has a value that makes no sense.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    aspects: tuple[Aspect, ...] = (Aspect.PROMPT, Aspect.RESPONSE)
    guards: tuple[str, ...] = ()
    combination: Combination = Combination.ANY_UNSAFE
    threshold: float | None = None
    hazards: tuple[PolicyHazard, ...] = ()
    on_error: ErrorHandling = ErrorHandling.ERROR
    on_controversial: ControversialHandling = ControversialHandling.KEEP
    on_truncated: TruncationHandling = TruncationHandling.ERROR

    def __post_init__(self) -> None:
        _check_threshold("threshold", self.threshold)
        for field, values, most in (("guards", self.guards, MOST_GUARDS), ("hazards", self.hazards, MOST_HAZARDS)):
            if len(values) > most:
                raise PolicyFieldError(field, f"has {len(values)} entries, at most {most} are allowed")
        _check_repetition("aspects", [each.value for each in self.aspects])
        _check_repetition("guards", self.guards)
        _check_repetition("hazards", [each.code for each in self.hazards], ".code")
        for index, hazard in enumerate(self.hazards):
            problem = problem_of_code(hazard.code)
            if problem:
                raise PolicyFieldError(f"hazards[{index}].code", problem)
            _check_threshold(f"hazards[{index}].threshold", hazard.threshold)

    @property
    def sets_thresholds(self) -> bool:
        """Whether it says from which probability on anything counts."""
        return self.threshold is not None or any(each.threshold is not None for each in self.hazards)

    @cached_property
    def reference(self) -> PolicyReference:
        """Name, version and the digest of what decides."""
        rules = {
            "rules": _RULES_VERSION,
            "aspects": sorted(each.value for each in self.aspects),
            "guards": list(self.guards),
            "combination": self.combination.value,
            "threshold": self.threshold,
            "hazards": {each.code: each.threshold for each in self.hazards},
            "on_error": self.on_error.value,
            "on_controversial": self.on_controversial.value,
            "on_truncated": self.on_truncated.value,
        }
        content = json.dumps(rules, sort_keys=True, separators=(",", ":"))
        return PolicyReference(self.name, self.version, hashlib.sha256(content.encode()).hexdigest())


def _check_threshold(field: str, threshold: float | None) -> None:
    if threshold is not None and not (math.isfinite(threshold) and 0 < threshold <= 1):
        raise PolicyFieldError(field, "must be above 0 and at most 1")


def _check_repetition(field: str, values: Sequence[str], part: str = "") -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise PolicyFieldError(f"{field}[{index}]{part}", f"{value!r} is there already")
