"""What each caller may spend in a day: the operator's file of limits."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from services.evaluation.documents import read_document, validate
from services.evaluation.errors import SpecificationError
from services.evaluation.runs.budget import Budget
from services.evaluation.specification_base import Specification
from services.runtime.caller_patterns import CallerPattern, CallerPatterns
from services.runtime.errors import StartupError

_MICRO_USD = 1e6


class DailyLimitsSpec(Specification):
    """What one caller may spend in a day; what is absent is not limited. ``usd`` is in US dollars."""

    items: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    engine_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    usd: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)


class CallerBudgetsSpec(Specification):
    """The file: limits by pattern, and those of everybody else."""

    callers: dict[CallerPattern, DailyLimitsSpec] = Field(default={})
    default: DailyLimitsSpec = DailyLimitsSpec()


@dataclass(frozen=True, slots=True)
class CallerBudget:
    """What a caller may spend in a day, and the pattern of the file that says so (``*`` for everybody else)."""

    pattern: str
    limit: Budget


class CallerBudgets:
    """The limits of every caller.

    A caller's own name goes before patterns, and of these the one with the longest beginning. Each caller whom a
    pattern fits has that budget for itself.
    """

    def __init__(self, spec: CallerBudgetsSpec | None = None) -> None:
        spec = spec or CallerBudgetsSpec()
        limits = {pattern: _budget(limits) for pattern, limits in spec.callers.items()}
        self._limits = CallerPatterns(limits, _budget(spec.default))

    @classmethod
    def read(cls, path: Path | None) -> "CallerBudgets":
        """The limits of a file; without one nobody is limited.

        Raises:
            StartupError: CALLER_BUDGETS_INVALID: it cannot be read, with the lines that are wrong.
        """
        if path is None:
            return cls()
        try:
            return cls(validate(CallerBudgetsSpec, read_document(path)))
        except SpecificationError as error:
            raise StartupError(error.message, reason="CALLER_BUDGETS_INVALID") from error

    def of(self, caller: str) -> CallerBudget:
        """What a caller may spend; its limit limits nothing where the file says nothing."""
        return CallerBudget(*self._limits.of(caller))


def _budget(limits: DailyLimitsSpec) -> Budget:
    cost = None if limits.usd is None else round(limits.usd * _MICRO_USD)
    return Budget(limits.items, limits.tokens, limits.engine_seconds, cost_micro_usd=cost)
