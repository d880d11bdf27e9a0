"""Failures of the inference room as the typed errors that the services raise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from services.inference.failures import InferenceFailure, decode_failure
from services.runtime import errors

ENGINE_CRASHED: Final = "ENGINE_CRASHED"

_PROCESS_GONE: Final = "is not healthy"

_CLASSES: Final[dict[str, type[errors.FleetError]]] = {
    cls.code.name: cls
    for cls in (
        errors.InvalidArgumentError,
        errors.NotFoundError,
        errors.AlreadyExistsError,
        errors.FailedPreconditionError,
        errors.ResourceExhaustedError,
        errors.UnavailableError,
        errors.DeadlineExceededError,
        errors.AbortedError,
        errors.UnimplementedError,
        errors.InternalError,
        errors.PermissionDeniedError,
    )
}
# What Triton itself says, in its own words, and what that means to a caller.
_TRITON_TEXTS: Final[tuple[tuple[str, type[errors.FleetError], str], ...]] = (
    ("This protocol is restricted", errors.PermissionDeniedError, "MODEL_CONTROL_REFUSED"),
    ("unknown model", errors.NotFoundError, "MODEL_NOT_LOADED"),
    ("is not found", errors.NotFoundError, "MODEL_NOT_LOADED"),
    ("is not ready", errors.UnavailableError, "MODEL_NOT_READY"),
    ("has no available versions", errors.UnavailableError, "MODEL_NOT_READY"),
    ("unexpected inference input", errors.FailedPreconditionError, "MODEL_LACKS_FEATURE"),
    (_PROCESS_GONE, errors.UnavailableError, ENGINE_CRASHED),
    ("missing required input", errors.FailedPreconditionError, "MODEL_LACKS_FEATURE"),
    ("decoupled transaction policy", errors.FailedPreconditionError, "MODEL_LACKS_FEATURE"),
    ("batch-size must be <=", errors.InvalidArgumentError, "BATCH_TOO_LARGE"),
    ("Server is stopping", errors.UnavailableError, "INFERENCE_STOPPING"),
    ("load failed for model", errors.FailedPreconditionError, "MODEL_LOAD_FAILED"),
)


_REQUEST_ID: Final = re.compile(r"^\[request id: [^\]]*\] ")
_RICH_STATUS_KEY: Final = "grpc-status-details-bin"


def to_fleet_error(failure: InferenceFailure) -> errors.FleetError:
    """Translate a failure; an unknown status code becomes INTERNAL."""
    violations = () if failure.field is None else (errors.FieldViolation(failure.field, failure.message),)
    return _CLASSES.get(failure.code, errors.InternalError)(
        failure.message, reason=failure.reason, metadata=failure.metadata, field_violations=violations
    )


def from_triton_text(text: str, *, model: str) -> errors.FleetError:
    """Translate an error message of Triton or of a model inside it."""
    failure = decode_failure(text)
    if failure is not None:
        return to_fleet_error(failure)
    summary = _REQUEST_ID.sub("", text.strip()).partition("\n")[0] or "no message"
    for marker, cls, reason in _TRITON_TEXTS:
        if marker in text:
            return cls(f"inference server: {summary}", reason=reason, metadata={"model": model})
    return errors.InternalError(
        f"inference server failed on model {model!r}: {summary}", reason="INFERENCE_FAILED", metadata={"model": model}
    )


def says_process_is_gone(text: str) -> bool:
    """Return whether Triton says that a model's process is gone; a model may also report that an engine in it is."""
    return decode_failure(text) is None and _PROCESS_GONE in text


def from_rpc_error(error: grpc.aio.AioRpcError, *, model: str, target: str) -> errors.FleetError:
    """Translate a failed call to the inference server."""
    details = error.details() or ""
    if decode_failure(details) is not None or any(marker in details for marker, _, _ in _TRITON_TEXTS):
        return from_triton_text(details, model=model)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceededError(
            f"model {model!r} did not answer within the caller's deadline",
            reason="INFERENCE_DEADLINE_EXCEEDED",
            metadata={"model": model},
        )
    if any(key == _RICH_STATUS_KEY for key, _ in error.trailing_metadata() or ()):
        # The local host is a service of ours and sends typed errors.
        return errors.from_rpc_error(error)
    if errors.is_lost_connection(error):
        return errors.UnavailableError(
            f"the inference server at {target} cannot be reached ({details}); is it running?",
            reason="INFERENCE_UNAVAILABLE",
            metadata={"target": target},
        )
    return from_triton_text(details or str(error.code()), model=model)


@contextmanager
def as_fleet_errors() -> Iterator[None]:
    """Raise an InferenceFailure of the enclosed code as its FleetError."""
    try:
        yield
    except InferenceFailure as failure:
        raise to_fleet_error(failure) from failure
