"""The error classes that cross a service boundary; each fixes one gRPC status code. Import them from ``errors``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import grpc

from services.runtime.names import nearest_names

ERROR_DOMAIN = "evalfleet.dev"
"""The ``domain`` of every ErrorInfo that the fleet sends."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One invalid request field: its path (``items[3].prompt``) and what to do about it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One exhausted quota: who ran out (``runs/r1``) and of what."""

    subject: str
    description: str


class FleetError(Exception):
    """An error with a status code, a machine-readable reason and details that survive the wire.

    Attributes:
        code: gRPC status code; fixed by the subclass.
        reason: UPPER_SNAKE, at most 63 characters, stable: callers branch on it.
        message: for people; says what to do.
        metadata: the dynamic values of the message (names, limits, counts), for machines.
        field_violations: sent as google.rpc.BadRequest.
        quota_violations: sent as google.rpc.QuotaFailure.
        retry_after_seconds: sent as google.rpc.RetryInfo and as gRPC retry pushback; ``None`` promises nothing.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
        quota_violations: Sequence[QuotaViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after_seconds = retry_after_seconds
        self.quota_violations = tuple(quota_violations)

    def again(self) -> Self:
        """Return a copy to raise: one exception that many calls raise would collect and keep all their tracebacks."""
        # Not by copy.copy(), which calls the class: each has parameters of its own.
        told = type(self).__new__(type(self), *self.args)
        told.__dict__.update(self.__dict__)
        return told


class InvalidArgumentError(FleetError):
    """The request is wrong whatever the state of the service."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"


class OutOfRangeError(FleetError):
    """The request asks for something past the valid range."""

    code = grpc.StatusCode.OUT_OF_RANGE
    default_reason = "OUT_OF_RANGE"


class NotFoundError(FleetError):
    """The named thing does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class AlreadyExistsError(FleetError):
    """The thing to create exists, with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class PermissionDeniedError(FleetError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class UnauthenticatedError(FleetError):
    """The caller did not say who it is, or could not prove it."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class FailedPreconditionError(FleetError):
    """The service is not in the state that the request needs; retrying alone won't help."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class AbortedError(FleetError):
    """A conflict with another call; retry at a higher level."""

    code = grpc.StatusCode.ABORTED
    default_reason = "ABORTED"


class ResourceExhaustedError(FleetError):
    """A quota or a queue is full. Without ``retry_after_seconds`` clients are told not to retry."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"


class UnavailableError(FleetError):
    """The service cannot answer now; the same call may succeed later or elsewhere."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceededError(FleetError):
    """The call's time is used up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class CancelledCallError(FleetError):
    """The call was cancelled by its caller."""

    code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELLED"


class UnimplementedError(FleetError):
    """The method or the requested variant is not served here."""

    code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


class DataLossError(FleetError):
    """Stored or received data is corrupt beyond repair."""

    code = grpc.StatusCode.DATA_LOSS
    default_reason = "DATA_LOSS"


class InternalError(FleetError):
    """A broken invariant: a bug of ours."""

    code = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"


class UnknownError(FleetError):
    """A foreign server answered UNKNOWN."""

    code = grpc.StatusCode.UNKNOWN
    default_reason = "UNKNOWN"


class StartupError(FailedPreconditionError):
    """A process cannot start; printed as one line that says what to do, exit code 1."""

    default_reason = "STARTUP_FAILED"


def not_found(kind: str, name: str, candidates: Iterable[str]) -> NotFoundError:
    """Build a NotFoundError for ``name`` that suggests the nearest of ``candidates`` or lists a few of them.

    Args:
        kind: what was looked for, in the singular: ``"suite"``.
        name: the unknown name.
        candidates: the valid names.
    """
    names = sorted(set(candidates))
    near = nearest_names(name, names)
    metadata = {"kind": kind, "name": name}
    if near:
        hint = f"did you mean {' or '.join(repr(each) for each in near)}?"
        metadata["nearest"] = ",".join(near)
    elif names:
        shown = ", ".join(names[:10])
        hint = f"known: {shown}{', …' if len(names) > 10 else ''}"
    else:
        hint = f"there is no {kind} yet"
    reason = "".join(c if c.isalnum() else "_" for c in kind.upper()) + "_NOT_FOUND"
    return NotFoundError(f"no {kind} named {name!r}; {hint}", reason=reason, metadata=metadata)
