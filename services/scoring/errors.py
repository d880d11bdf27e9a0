"""What can go wrong when an output is scored."""

from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
)


class InvalidScoreRequestError(InvalidArgumentError):
    """The request does not fit its scorer; every violation is listed."""

    default_reason = "INVALID_SCORE_REQUEST"

    def __init__(self, scorer: str, *violations: FieldViolation) -> None:
        listed = "; ".join(f"{each.field}: {each.description}" for each in violations)
        super().__init__(
            f"{scorer} cannot score this request: {listed}",
            metadata={"scorer": scorer},
            field_violations=violations,
        )


class InvalidScorerNameError(InvalidArgumentError):
    """The name is not of the form ``scorers/{scorer}``."""

    default_reason = "INVALID_SCORER_NAME"


class InvalidBatchError(InvalidArgumentError):
    """The batch itself is wrong, not one of its requests."""

    default_reason = "INVALID_BATCH"


class LogLikelihoodError(InvalidArgumentError):
    """The log-likelihoods cannot be compared: not numbers, above zero, or all of them impossible."""

    default_reason = "INVALID_LOG_LIKELIHOODS"


class PatternTimeoutError(InvalidArgumentError):
    """A regular expression took too long on this output; another attempt would take as long."""

    default_reason = "PATTERN_TIMEOUT"


class TextTooLongError(InvalidArgumentError):
    """A text or a target is longer than the scorer can judge in reasonable time."""

    default_reason = "TEXT_TOO_LONG"


class ScorerTimeoutError(DeadlineExceededError):
    """A scorer took longer over one output than the service allows, and was stopped."""

    default_reason = "SCORER_TIMEOUT"

    def __init__(self, scorer: str, limit_seconds: float) -> None:
        super().__init__(
            f"{scorer} took more than {limit_seconds:g} s over this output and was stopped",
            metadata={"scorer": scorer, "limit_seconds": f"{limit_seconds:g}"},
        )


class ScoreLateError(DeadlineExceededError):
    """An output had no score when its time was nearly up: its turn did not come, or it takes longer."""

    default_reason = "SCORE_DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("there was no score yet when the call's time was nearly up; allow more time or ask for less")


class ScorerCrashedError(InternalError):
    """The process in which a scorer judged one output died, and so did the next one."""

    default_reason = "SCORER_CRASHED"

    def __init__(self, scorer: str, ending: str) -> None:
        super().__init__(
            f"{scorer} cannot score this output: its process {ending}, twice",
            metadata={"scorer": scorer, "ending": ending},
        )


class VerdictError(FailedPreconditionError):
    """The safety service could not judge the output, which is therefore never taken for harmless."""

    default_reason = "SAFETY_VERDICT_ERROR"


class ScorerMemoryError(InvalidArgumentError):
    """A scorer wants more memory for one output than the service allows; another attempt would, too."""

    default_reason = "SCORER_OUT_OF_MEMORY"

    def __init__(self, scorer: str) -> None:
        super().__init__(
            f"{scorer} needs more memory for this output than EVALFLEET_POOL_WORKER_MEMORY_BYTES allows",
            metadata={"scorer": scorer},
            field_violations=(FieldViolation("text", "takes too much memory to judge"),),
        )


class ProcessorTimeError(InvalidArgumentError):
    """A scorer needs more processor time for this output than it may have; another attempt would, too."""

    default_reason = "PROCESSOR_TIME"

    def __init__(self, scorer: str, limit_seconds: float) -> None:
        super().__init__(
            f"{scorer} needs more than {limit_seconds:g} s of processor time for this output",
            metadata={"scorer": scorer, "limit_seconds": f"{limit_seconds:g}"},
            field_violations=(FieldViolation("text", "takes too long to judge"),),
        )


class TextTooDeepError(InvalidArgumentError):
    """A text's structure is nested more deeply than the scorer can judge."""

    default_reason = "TEXT_TOO_DEEP"
