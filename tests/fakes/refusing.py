"""How fakes of services end calls: with a rich status, as the real ones do, or as methods that are not offered."""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


def fail(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    message: str,
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    violations: dict[str, str] | None = None,
) -> NoReturn:
    """End a call with a rich status, as the real services do."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if reason:
        info = any_pb2.Any()
        info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="evalfleet.dev", metadata=metadata or {}))
        status.details.append(info)
    if violations:
        request = error_details_pb2.BadRequest()
        for field, description in violations.items():
            request.field_violations.add(field=field, description=description)
        packed = any_pb2.Any()
        packed.Pack(request)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def not_offered(context: grpc.ServicerContext) -> NoReturn:
    """End a call that the client library never makes."""
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
    raise AssertionError("abort raises")
