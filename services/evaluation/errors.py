"""What can be wrong with a suite, a task or its data, as errors that a caller can act on."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.runtime.database_engine import RETRY_AFTER_SECONDS
from services.runtime.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError, UnavailableError

INSTALL_HINT = "pip install 'evalfleet-services[suites]'"
"""What installs every library that reading data may need."""


@dataclass(frozen=True, slots=True)
class SpecificationProblem:
    """One problem of a file: where it is and what to do about it."""

    file: str
    line: int
    field: str
    description: str

    def __str__(self) -> str:
        """``file:line: field: description``."""
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {field}{self.description}"


class SpecificationError(InvalidArgumentError):
    """A suite or task file is malformed; the message has one ``file:line: field: problem`` a line."""

    default_reason = "INVALID_SPECIFICATION"

    def __init__(self, problems: Sequence[SpecificationProblem]) -> None:
        super().__init__(
            "\n".join(str(problem) for problem in problems),
            metadata={"file": problems[0].file, "line": str(problems[0].line)},
            field_violations=[FieldViolation(problem.field or "(file)", str(problem)) for problem in problems],
        )
        self.problems = tuple(problems)


class TemplateError(InvalidArgumentError):
    """A template or an expression of a task cannot be used at all."""

    default_reason = "INVALID_TEMPLATE"


class RenderingError(InvalidArgumentError):
    """A template fails on the values of one row, or its output is too long or no Unicode text."""

    default_reason = "INVALID_ROW"


class DataPathError(InvalidArgumentError):
    """A path of a task leaves the folder that its data must lie in."""

    default_reason = "DATA_PATH_OUTSIDE_ROOT"


class DataNotFoundError(FailedPreconditionError):
    """None of a task's sources has the wanted split."""

    default_reason = "DATA_NOT_FOUND"


class EmptyDataError(FailedPreconditionError):
    """A data set has no rows, or none that the task's filter keeps."""

    default_reason = "DATA_EMPTY"


class MissingColumnError(FailedPreconditionError):
    """Every row of a data set lacks a column that the task needs."""

    default_reason = "DATA_LACKS_COLUMN"


class UnreadableDataError(FailedPreconditionError):
    """A data file as a whole cannot be read: wrong format, broken archive, missing library."""

    default_reason = "DATA_UNREADABLE"


class RunsUnavailableError(UnavailableError):
    """The list of runs cannot be read or written now; the same call may be made again."""

    default_reason = "RUNS_UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_seconds: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class ScoringUnavailableError(UnavailableError):
    """The scoring service is away: it computes on CPUs, and no model of ours has to wake for it."""

    @classmethod
    def of(cls, error: UnavailableError) -> "ScoringUnavailableError":
        """Return the same error, told apart."""
        return cls(
            error.message,
            reason=error.reason,
            metadata=error.metadata,
            retry_after_seconds=error.retry_after_seconds,
        )


class LeaseLostError(FailedPreconditionError):
    """Another replica works on the run now, or it was cancelled; this one may change nothing of it any more."""

    default_reason = "RUN_LEASE_LOST"
