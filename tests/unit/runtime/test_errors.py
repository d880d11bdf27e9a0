"""Errors keep their class, reason and details over the wire, and nothing else leaks."""

import asyncio
import pickle
import re
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.runtime import errors
from services.runtime.errors import (
    FieldViolation,
    FleetError,
    InternalError,
    QuotaViolation,
    UnknownError,
    from_rpc_error,
    from_status,
    to_status,
)
from services.runtime.testing import as_bytes, serve_in_process

ALL_CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, FleetError) and each not in (FleetError, errors.StartupError)
]


def full_error(cls: type[FleetError]) -> FleetError:
    return cls(
        "model 'm' is gone: load it again",
        reason="MODEL_GONE",
        metadata={"model": "m", "count": "3"},
        field_violations=[FieldViolation("items[0].model", "name a loaded model")],
        retry_after_seconds=1.25,
        quota_violations=[QuotaViolation("runs/r1", "4 of 4 models loaded")],
    )


def contents(error: FleetError) -> tuple[object, ...]:
    return (
        type(error),
        error.code,
        error.message,
        error.reason,
        error.metadata,
        error.field_violations,
        error.retry_after_seconds,
        error.quota_violations,
    )


def test_there_is_a_class_for_every_code_but_ok() -> None:
    assert sorted(each.code.name for each in ALL_CLASSES) == sorted(
        code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK
    )


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_every_class_survives_a_round_trip(cls: type[FleetError]) -> None:
    error = full_error(cls)
    assert contents(from_status(to_status(error))) == contents(error)


@pytest.mark.parametrize("cls", ALL_CLASSES)
async def test_every_class_survives_the_wire(cls: type[FleetError], make_service: Any) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise full_error(cls)

    async with serve_in_process(make_service(unary=fail)) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary("/test.v1.TestService/Unary", as_bytes, as_bytes)(b"")
    assert contents(from_rpc_error(caught.value)) == contents(full_error(cls))


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_defaults_of_a_class(cls: type[FleetError]) -> None:
    error = from_status(to_status(cls("no")))
    assert (error.reason, error.metadata, error.retry_after_seconds) == (cls.default_reason, {}, None)


def test_an_error_crosses_a_process_pool() -> None:
    error = full_error(errors.AbortedError)
    assert contents(pickle.loads(pickle.dumps(error))) == contents(error)


any_text = st.text(st.characters(codec=None), max_size=2000)


@given(
    cls=st.sampled_from(ALL_CLASSES),
    message=any_text,
    reason=any_text,
    metadata=st.dictionaries(any_text, any_text, max_size=30),
    fields=st.lists(st.builds(FieldViolation, any_text, any_text), max_size=20),
    retry=st.none() | st.floats(),
    quotas=st.lists(st.builds(QuotaViolation, any_text, any_text), max_size=5),
)
def test_any_error_becomes_a_small_well_formed_status(
    cls: type[FleetError],
    message: str,
    reason: str,
    metadata: dict[str, str],
    fields: list[FieldViolation],
    retry: float | None,
    quotas: list[QuotaViolation],
) -> None:
    status = to_status(
        cls(
            message,
            reason=reason,
            metadata=metadata,
            field_violations=fields,
            retry_after_seconds=retry,
            quota_violations=quotas,
        )
    )
    assert travelling_bytes(status) < 8000  # peers refuse more than 8 KiB
    types = [packed.TypeName() for packed in status.details]
    assert len(types) == len(set(types))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,62}", info.reason)
    assert info.domain == "evalfleet.dev"
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", key) for key in info.metadata)
    again = from_status(status)
    assert type(again) is cls
    assert (again.retry_after_seconds is None) == (retry is None)
    assert again.retry_after_seconds is None or 0 <= again.retry_after_seconds <= 86_400


def travelling_bytes(status: status_pb2.Status) -> float:
    """What a status weighs in trailers: the message percent-encoded, and all of it base64-encoded."""
    return len(status.message.encode()) * 3 + len(status.SerializeToString()) * 4 / 3


@pytest.mark.parametrize("letter", ["a", "é", "€", "🙂"])
def test_the_largest_error_still_fits_into_trailers(letter: str) -> None:
    long = letter * 5000
    status = to_status(
        errors.ResourceExhaustedError(
            long,
            reason="X" * 100,
            metadata={f"{number}{'k' * 100}": long for number in range(40)},
            field_violations=[FieldViolation(long, long)] * 40,
            retry_after_seconds=1e300,
            quota_violations=[QuotaViolation(long, long)] * 40,
        )
    )
    assert travelling_bytes(status) < 8000
    error = from_status(status)
    # What matters most is there, cut but readable.
    assert error.message.startswith(letter * 100)
    assert error.message.endswith("…")
    assert error.metadata
    assert error.retry_after_seconds == 86_400


def test_an_unknown_exception_shows_only_an_incident_id() -> None:
    with capture_logs() as lines:
        status = to_status(ValueError("password=hunter2"))
    error = from_status(status)
    assert isinstance(error, InternalError)
    assert "hunter2" not in str(status)
    [line] = lines
    assert line["incident"] == error.metadata["incident"]
    assert isinstance(line["exc_info"], ValueError)


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (TimeoutError(), grpc.StatusCode.DEADLINE_EXCEEDED),
        (TimeoutError("read timed out"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (asyncio.CancelledError(), grpc.StatusCode.CANCELLED),
        (ExceptionGroup("tasks", [errors.NotFoundError("a"), TimeoutError()]), grpc.StatusCode.NOT_FOUND),
        (ExceptionGroup("tasks", [errors.NotFoundError("a"), KeyError("b")]), grpc.StatusCode.INTERNAL),
        (ExceptionGroup("outer", [ExceptionGroup("inner", [TimeoutError()])]), grpc.StatusCode.DEADLINE_EXCEEDED),
        (KeyError("x"), grpc.StatusCode.INTERNAL),
        (grpc.RpcError("without a code"), grpc.StatusCode.INTERNAL),
    ],
)
def test_codes_of_other_exceptions(exception: BaseException, code: grpc.StatusCode) -> None:
    with capture_logs():
        assert to_status(exception).code == code.value[0]


def rpc_error(code: grpc.StatusCode, details: str | None, *trailers: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


def test_a_downstream_error_stays_what_it_was() -> None:
    status = to_status(errors.NotFoundError("no model", reason="MODEL_NOT_FOUND", metadata={"model": "m"}))
    error = rpc_error(grpc.StatusCode.NOT_FOUND, "no model", ("grpc-status-details-bin", status.SerializeToString()))
    assert to_status(error) == status


@pytest.mark.parametrize(
    "trailer",
    [b"\xff\xff not a status", to_status(errors.AbortedError("other code")).SerializeToString()],
)
def test_details_that_cannot_be_trusted_are_left_out(trailer: bytes) -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "gone", ("grpc-status-details-bin", trailer)))
    assert contents(error) == contents(errors.UnavailableError("gone"))


def test_a_peer_without_message_or_known_code() -> None:
    assert "UNAVAILABLE" in from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, None)).message
    assert type(from_status(status_pb2.Status(code=code_pb2.Code.ValueType(77), message="?"))) is UnknownError


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "Internal error from Core", errors.UnavailableError),
        (grpc.StatusCode.INTERNAL, "a bug", errors.InternalError),
        # What reaches a server that is being stopped, and what outlives its connection.
        (grpc.StatusCode.CANCELLED, "CANCELLED", errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, "max_age", errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", errors.CancelledCallError),
    ],
)
def test_a_peer_that_went_away_under_a_call_is_away(
    code: grpc.StatusCode, details: str, kind: type[FleetError]
) -> None:
    assert type(from_rpc_error(rpc_error(code, details))) is kind


def test_a_damaged_detail_is_ignored() -> None:
    status = to_status(errors.NotFoundError("x", reason="GONE"))
    status.details[0].value = b"\xff\xff"
    assert from_status(status).reason == "NOT_FOUND"


def test_ok_is_no_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        from_status(status_pb2.Status())


def test_not_found_suggests_what_was_meant() -> None:
    error = errors.not_found("guard model", "minlm", ["minilm", "wildguard"])
    assert error.message == "no guard model named 'minlm'; did you mean 'minilm'?"
    assert error.reason == "GUARD_MODEL_NOT_FOUND"
    assert error.metadata == {"kind": "guard model", "name": "minlm", "nearest": "minilm"}
    assert errors.not_found("suite", "zzz", ["b", "a"]).message == "no suite named 'zzz'; known: a, b"
    assert errors.not_found("suite", "zzz", []).message == "no suite named 'zzz'; there is no suite yet"
    assert errors.not_found("suite", "zzz", map(str, range(11))).message.endswith(", …")
