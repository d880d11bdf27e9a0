"""What can go wrong when an output is scored."""

from services.runtime.errors import FieldViolation, InvalidArgumentError


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
