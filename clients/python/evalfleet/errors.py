"""What can go wrong when talking to a fleet: exceptions with a stable reason, details, and a sentence for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

DetailT = TypeVar("DetailT", bound=Message)

_STATUS_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
# What a call of grpc.aio says of a connection that broke while it was sending.
_BROKEN_WHILE_SENDING = "Internal error from Core"
# What gRPC says of calls that this process cancelled. Any other cancelling is the service's, which is being stopped:
# it drops calls that came after its last look, or that outlived their connection, without a word.
_CANCELLED_HERE = frozenset({"Locally cancelled by application!", "Channel closed!"})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One invalid field of a request: its path and what to do about it."""

    field: str
    description: str


class EvalFleetError(Exception):
    """Base of everything this library raises on purpose.

    Attributes:
        message: one line for people; says what to do where that is known.
        code: gRPC status code of the failed call; ``None`` when no call was made.
        reason: UPPER_SNAKE and stable: branch on it.
        metadata: the dynamic values of the message, for machines.
        field_violations: invalid fields of the request.
        retry_after_seconds: when the service asks to come back; ``None`` promises nothing.
        is_retry_refused: the service asks not to come back.
        request_id: of the failed call, as the services' logs have it; empty when no call was made.
        is_unanswered: the error is the connection's: no service said it.
    """

    code: ClassVar[grpc.StatusCode | None] = None

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after_seconds: float | None = None,
        is_retry_refused: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or (self.code.name if self.code else "EVALFLEET_ERROR")
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after_seconds = retry_after_seconds
        self.is_retry_refused = is_retry_refused
        self.request_id = request_id
        self.is_unanswered = False

    def explanation(self) -> str:
        """Return the message with the invalid fields beneath it, one a line."""
        lines = [self.message]
        # A message about a single field often is that field's description too.
        told = [each for each in self.field_violations if each.field and each.description not in self.message]
        lines += [f"  {each.field}: {each.description}" for each in told]
        if self.retry_after_seconds:
            lines.append(f"  try again in {self.retry_after_seconds:.0f} s")
        return "\n".join(lines)


class EndpointError(EvalFleetError):
    """It is not known where a service is, or the fleet that was there has gone."""


class SecurityError(EvalFleetError):
    """The certificates or the token cannot be used as they are; nothing was sent."""


class ForkedProcessError(EvalFleetError):
    """This process was forked from one that had used gRPC, which does not work on the far side of a fork."""


class MissingExtraError(EvalFleetError):
    """A library is not installed that an extra of this one brings."""


class CalibrationError(EvalFleetError):
    """Guards cannot be calibrated with the rows or the numbers given."""


class ModelLoadError(EvalFleetError):
    """A registered model could not be loaded, or not in the time allowed."""


class CancelledCallError(EvalFleetError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


class InvalidArgumentError(EvalFleetError):
    """The request is wrong; repeating it won't help."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceededError(EvalFleetError):
    """The call's time is used up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFoundError(EvalFleetError):
    """The named thing does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(EvalFleetError):
    """The thing to create exists, with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDeniedError(EvalFleetError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhaustedError(EvalFleetError):
    """A quota or a queue is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPreconditionError(EvalFleetError):
    """The service is not in the state that the request needs."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class AbortedError(EvalFleetError):
    """A conflict with another call."""

    code = grpc.StatusCode.ABORTED


class OutOfRangeError(EvalFleetError):
    """The request asks for something past the valid range."""

    code = grpc.StatusCode.OUT_OF_RANGE


class UnimplementedError(EvalFleetError):
    """The service does not offer this."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(EvalFleetError):
    """A bug in the service; its log has the details."""

    code = grpc.StatusCode.INTERNAL


class UnavailableError(EvalFleetError):
    """The service cannot be reached or cannot answer now; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLossError(EvalFleetError):
    """Stored data is damaged."""

    code = grpc.StatusCode.DATA_LOSS


class UnauthenticatedError(EvalFleetError):
    """The caller did not say who it is."""

    code = grpc.StatusCode.UNAUTHENTICATED


class UnknownError(EvalFleetError):
    """A server answered UNKNOWN: it is no EvalFleet service, or a very different version."""

    code = grpc.StatusCode.UNKNOWN


_CLASS_BY_CODE: Mapping[grpc.StatusCode, type[EvalFleetError]] = {
    each.code: each for each in EvalFleetError.__subclasses__() if each.code is not None
}


_CLASS_BY_NUMBER = {code.value[0]: each for code, each in _CLASS_BY_CODE.items()}


def from_rpc_error(error: grpc.RpcError, *, service: str, target: str, request_id: str = "") -> EvalFleetError:
    """Turn what a stub raised into a typed error, keeping the service's reason, metadata and field violations.

    Args:
        error: what the stub raised.
        service: name of the called service, for the message: ``evaluation``.
        target: its address, for the message.
        request_id: the id that the call carried.
    """
    status = _rich_status(error)
    if status is None:
        code = grpc.StatusCode.UNAVAILABLE if _has_lost_connection(error) else error.code()
        error_class = _CLASS_BY_CODE.get(code, UnknownError)
        typed = error_class(_plain_message(code, error.details() or "", service, target))
        typed.is_unanswered = code is grpc.StatusCode.UNAVAILABLE
    else:
        typed = from_status(status)
    pushback = _pushback_seconds(error)
    if pushback is not None and typed.retry_after_seconds is None:
        typed.is_retry_refused = pushback < 0
        typed.retry_after_seconds = None if pushback < 0 else pushback
    typed.request_id = request_id
    return typed


def from_status(status: status_pb2.Status) -> EvalFleetError:
    """Turn the status of one item of a batch or a stream into a typed error."""
    error_class = _CLASS_BY_NUMBER.get(status.code, UnknownError)
    info = _detail(status, error_details_pb2.ErrorInfo())
    request = _detail(status, error_details_pb2.BadRequest())
    retry = _detail(status, error_details_pb2.RetryInfo())
    return error_class(
        status.message,
        reason=info.reason if info else "",
        metadata=dict(info.metadata) if info else None,
        field_violations=[FieldViolation(each.field, each.description) for each in request.field_violations]
        if request
        else (),
        retry_after_seconds=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if retry else None,
    )


def _has_lost_connection(error: grpc.RpcError) -> bool:
    """Whether the service went away before it answered, in whichever words gRPC says so."""
    if error.code() is grpc.StatusCode.CANCELLED:
        return error.details() not in _CANCELLED_HERE
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == _BROKEN_WHILE_SENDING


def _plain_message(code: grpc.StatusCode, details: str, service: str, target: str) -> str:
    """Say what a status without details means; it comes from the transport, not from a service of ours."""
    where = f"the {service} service at {target}"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"{where} cannot be reached; is the fleet running? `evalfleet up` starts one on this machine"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{where} did not answer in time; its log may say why"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{where} does not offer this call; is it another service, or an older version?"
        case _:
            return f"{where} answered {code.name}: {details or 'no message'}"


def _trailers(error: grpc.RpcError) -> Iterable[tuple[str, str | bytes]]:
    # The stub calls an entry of the trailers a nominal type; at run time each is a (key, value) tuple.
    return cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())


def _pushback_seconds(error: grpc.RpcError) -> float | None:
    """Return when gRPC's pushback says to come back, below 0 for never; ``None`` if there is none."""
    for key, value in _trailers(error):
        if key == _PUSHBACK_KEY:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            # gRPC's rule: what is no number says never.
            return int(text) / 1000 if text.isascii() and text.isdigit() else -1.0
    return None


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    for key, value in _trailers(error):
        if key == _STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _detail(status: status_pb2.Status, empty: DetailT) -> DetailT | None:
    """Fill ``empty`` from the first entry of its type; ``None`` if there is none or it is damaged."""
    for packed in status.details:
        if packed.Is(empty.DESCRIPTOR):
            try:
                packed.Unpack(empty)
            except DecodeError:
                return None
            return empty
    return None
