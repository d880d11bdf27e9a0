"""Translate between exceptions and google.rpc.Status (AIP-193). Import the functions from ``errors``."""

import asyncio
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.runtime import error_types
from services.runtime.error_types import ERROR_DOMAIN, FieldViolation, FleetError, QuotaViolation

DetailT = TypeVar("DetailT", bound=Message)

STATUS_DETAILS_KEY = "grpc-status-details-bin"
_LOCAL_FAILURE = "Internal error from Core"
_LOCAL_CANCELLING = "Locally cancelled by application!"

# A peer refuses trailers above 8 KiB. The message travels twice, once percent-encoded (up to 3 bytes per byte),
# and the details travel base64-encoded, so these two bounds keep the worst case below 7 KiB.
_MESSAGE_LIMIT_BYTES = 768
_DETAILS_LIMIT_BYTES = 3072
_FIELD_LIMIT_BYTES = 256
_LONGEST_RETRY_SECONDS = 86_400.0

_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_CLASS_BY_CODE: dict[grpc.StatusCode, type[FleetError]] = {
    each.code: each
    for each in (
        error_types.InvalidArgumentError,
        error_types.OutOfRangeError,
        error_types.NotFoundError,
        error_types.AlreadyExistsError,
        error_types.PermissionDeniedError,
        error_types.UnauthenticatedError,
        error_types.FailedPreconditionError,
        error_types.AbortedError,
        error_types.ResourceExhaustedError,
        error_types.UnavailableError,
        error_types.DeadlineExceededError,
        error_types.CancelledCallError,
        error_types.UnimplementedError,
        error_types.DataLossError,
        error_types.InternalError,
        error_types.UnknownError,
    )
}


def to_status(error: BaseException) -> status_pb2.Status:
    """Describe any exception as a status that is safe to show to a caller.

    Sizes are bounded so that the status fits into gRPC trailers: long texts are cut, surplus details are dropped.
    An unknown exception becomes INTERNAL with an incident id; only the log holds its text and traceback.
    """
    known = as_fleet_error(error)
    status = status_pb2.Status(
        code=code_pb2.Code.ValueType(known.code.value[0]), message=_cut(known.message, _MESSAGE_LIMIT_BYTES)
    )
    budget = _DETAILS_LIMIT_BYTES
    for detail in _details(known):
        packed = any_pb2.Any()
        packed.Pack(detail)
        budget -= packed.ByteSize()
        if budget >= 0:
            status.details.append(packed)
    return status


def from_status(status: status_pb2.Status) -> FleetError:
    """Rebuild the typed error that ``status`` describes, keeping its reason, metadata and details.

    Raises:
        ValueError: the status is OK, which is no error.
    """
    if status.code == code_pb2.OK:
        raise ValueError("a status with code OK describes no error")
    code = code_of(status.code)
    info = _unpack(status, error_details_pb2.ErrorInfo())
    request = _unpack(status, error_details_pb2.BadRequest())
    quota = _unpack(status, error_details_pb2.QuotaFailure())
    retry = _unpack(status, error_details_pb2.RetryInfo())
    return _CLASS_BY_CODE[code](
        status.message or f"the peer gave no message with {code.name}",
        reason=info.reason if info else None,
        metadata=dict(info.metadata) if info else None,
        field_violations=[FieldViolation(v.field, v.description) for v in request.field_violations] if request else (),
        retry_after_seconds=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry else None,
        quota_violations=[QuotaViolation(v.subject, v.description) for v in quota.violations] if quota else (),
    )


def from_rpc_error(error: grpc.RpcError) -> FleetError:
    """Turn what a stub raised into the caller's typed error; the peer's reason and details are kept."""
    code = error.code()
    # The stub calls an entry of the trailers a nominal type; at run time each is a (key, value) tuple.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            status = _parse(value)
            if status is not None and status.code == code.value[0]:
                return from_status(status)
    if is_lost_connection(error):
        code = grpc.StatusCode.UNAVAILABLE
    number = code_pb2.Code.ValueType(code.value[0] or code_pb2.UNKNOWN)
    return from_status(status_pb2.Status(code=number, message=error.details() or ""))


def is_lost_connection(error: grpc.RpcError) -> bool:
    """Return whether the peer went away under a call.

    Mostly gRPC says UNAVAILABLE. A call of ``grpc.aio`` that was just sending says INTERNAL, in words of its own. One
    that comes while the peer stops, or that outlives its connection, is CANCELLED by the peer.
    """
    match error.code():
        case grpc.StatusCode.INTERNAL:
            return error.details() == _LOCAL_FAILURE
        case grpc.StatusCode.CANCELLED:
            return error.details() != _LOCAL_CANCELLING
        case code:
            return code is grpc.StatusCode.UNAVAILABLE


def code_of(code: grpc.StatusCode | int | None) -> grpc.StatusCode:
    """Return the status code that a handler set, which gRPC also accepts as a number; none at all means UNKNOWN."""
    if isinstance(code, grpc.StatusCode):
        return code
    return grpc.StatusCode.UNKNOWN if code is None else _CODE_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)


def as_fleet_error(error: BaseException) -> FleetError:
    """Return the typed error for any exception; unknown ones are logged under a new incident id.

    An exception group (``asyncio.TaskGroup``) yields its first member when all of them are known errors.
    """
    known = _known_error(error)
    if known is not None:
        return known
    incident = secrets.token_hex(8)
    structlog.get_logger(__name__).error(
        "internal_error", incident=incident, error_type=type(error).__name__, exc_info=error
    )
    return error_types.InternalError(
        f"internal error; the service's log has the details under incident {incident}",
        reason="INTERNAL_ERROR",
        metadata={"incident": incident},
    )


def _known_error(error: BaseException) -> FleetError | None:
    match error:
        case FleetError():
            return error
        case grpc.RpcError() if hasattr(error, "code"):
            return from_rpc_error(error)
        case TimeoutError():
            return error_types.DeadlineExceededError(
                "the time allowed for this call is used up; allow more or ask less"
            )
        case asyncio.CancelledError():
            return error_types.CancelledCallError("the call was cancelled")
        case BaseExceptionGroup():
            members = [_known_error(member) for member in error.exceptions]
            return members[0] if all(member is not None for member in members) else None
        case _:
            return None


def _details(error: FleetError) -> Iterator[Message]:
    """Yield the google.rpc detail messages, most important first; each type at most once."""
    info = error_details_pb2.ErrorInfo(reason=_as_reason(error.reason), domain=ERROR_DOMAIN)
    room = _DETAILS_LIMIT_BYTES - 512
    for key, value in error.metadata.items():
        key, value = _as_metadata_key(key), _cut(str(value), _FIELD_LIMIT_BYTES)
        room -= len(key) + len(value.encode()) + 8
        if key and room > 0:
            info.metadata[key] = value
    yield info
    if error.retry_after_seconds is not None:
        yield error_details_pb2.RetryInfo(retry_delay=_as_duration(error.retry_after_seconds))
    if error.field_violations:
        request = error_details_pb2.BadRequest()
        room = _DETAILS_LIMIT_BYTES - 256 - info.ByteSize()
        for violation in error.field_violations:
            field, text = _cut(violation.field, _FIELD_LIMIT_BYTES), _cut(violation.description, _FIELD_LIMIT_BYTES)
            room -= len(field.encode()) + len(text.encode()) + 8
            if room > 0:
                request.field_violations.add(field=field, description=text)
        yield request
    if error.quota_violations:
        quota = error_details_pb2.QuotaFailure()
        for shortage in error.quota_violations[:2]:
            quota.violations.add(
                subject=_cut(shortage.subject, _FIELD_LIMIT_BYTES),
                description=_cut(shortage.description, _FIELD_LIMIT_BYTES),
            )
        yield quota


def _as_reason(reason: str) -> str:
    """Force a reason into AIP-193's form: UPPER_SNAKE, at most 63 characters."""
    cleaned = re.sub(r"[^A-Z0-9_]+", "_", reason.upper())[:63].strip("_")
    return cleaned if cleaned and cleaned[0].isalpha() else "UNKNOWN_REASON"


def _as_metadata_key(key: str) -> str:
    """Force a metadata key into AIP-193's form: letters, digits, ``-`` and ``_``, at most 64 characters."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", key)[:64]


def _as_duration(seconds: float) -> duration_pb2.Duration:
    # max/min in this order also turn NaN into zero.
    bounded = min(max(0.0, seconds), _LONGEST_RETRY_SECONDS)
    whole = int(bounded)
    return duration_pb2.Duration(seconds=whole, nanos=int((bounded - whole) * 1e9))


def _cut(text: str, limit_bytes: int) -> str:
    """Cut ``text`` to ``limit_bytes`` of UTF-8, replacing what UTF-8 cannot hold."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "…"


def _parse(serialized: bytes) -> status_pb2.Status | None:
    try:
        return status_pb2.Status.FromString(serialized)
    except DecodeError:
        return None


def _unpack(status: status_pb2.Status, detail: DetailT) -> DetailT | None:
    """Fill ``detail`` from the first matching entry of the status; ``None`` if there is none or it is damaged."""
    for packed in status.details:
        if packed.Is(detail.DESCRIPTOR):
            try:
                packed.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None
