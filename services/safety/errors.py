"""What can go wrong in the safety service, as callers see it."""

from typing import Final

from services.inference.model_loading import LoadingTerms
from services.runtime.errors import (
    CancelledCallError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StartupError,
    UnavailableError,
)


class GuardFileError(StartupError):
    """A guard's description (guard.yaml, head.json, calibration.json) cannot be used."""

    default_reason = "GUARD_FILE_INVALID"


class PolicyFileError(StartupError):
    """A policy's file cannot be used."""

    default_reason = "POLICY_FILE_INVALID"


class PolicyNotApplicableError(FailedPreconditionError):
    """This service's guards cannot apply the policy, e.g. because none of them knows one of its hazards."""

    default_reason = "POLICY_NOT_APPLICABLE"


class CascadeFileError(StartupError):
    """A cascade's calibration file cannot be used, or was made for other guards."""

    default_reason = "CASCADE_FILE_INVALID"


class EncoderError(StartupError):
    """The guard's encoder is missing, or is not the one that its head was trained on."""

    default_reason = "GUARD_ENCODER_UNUSABLE"


class NgramsNotInstalledError(StartupError):
    """What a guard on n-grams computes with is not installed."""

    default_reason = "NGRAMS_NOT_INSTALLED"


class GuardLoadError(FailedPreconditionError):
    """The inference server refused the guard's model."""

    default_reason = "GUARD_NOT_LOADABLE"


class GuardUnavailableError(UnavailableError):
    """The guard's model does not take requests now."""

    default_reason = "GUARD_UNAVAILABLE"


GUARD_LOADING: Final = LoadingTerms("the guard's model", "guard", GuardLoadError, GuardUnavailableError)
"""How a guard's model is kept loaded."""

CALL_FAILURES: Final = (
    UnavailableError,
    ResourceExhaustedError,
    CancelledCallError,
    NotFoundError,
    PermissionDeniedError,
    GuardLoadError,
)
"""After these nobody judged anything and a later call may succeed, so the call fails instead of its items."""


class UnusableAnswerError(Exception):
    """A guard's model answered something that is no judgement of the texts; becomes an ERROR verdict.

    Attributes:
        reason: UPPER_SNAKE, the verdict's ``error_reason``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def invalid_field(field: str, description: str, *, reason: str = "INVALID_ARGUMENT") -> InvalidArgumentError:
    """Build the error for one bad request field.

    Args:
        field: path in the request: ``conversation.messages[2].content``.
        description: what to do about it.
        reason: machine-readable cause.
    """
    return InvalidArgumentError(
        f"{field}: {description}", reason=reason, field_violations=(FieldViolation(field, description),)
    )
