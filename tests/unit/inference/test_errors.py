import grpc
import pytest

from services.inference.errors import as_fleet_errors, from_rpc_error, from_triton_text, to_fleet_error
from services.inference.failures import InferenceFailure, encode_failure
from services.runtime.errors import FailedPreconditionError, FleetError, InternalError


def test_a_failure_becomes_the_error_of_its_code() -> None:
    failure = InferenceFailure("too long", reason="PROMPT_TOO_LONG", code="FAILED_PRECONDITION", metadata={"a": "1"})
    error = from_triton_text(f"in ensemble: {encode_failure(failure)}", model="m")
    assert isinstance(error, FailedPreconditionError)
    assert (error.reason, error.message, error.metadata) == ("PROMPT_TOO_LONG", "too long", {"a": "1"})


def test_the_field_at_fault_is_a_violation() -> None:
    error = to_fleet_error(InferenceFailure("bad", reason="X", field="messages"))
    assert [(each.field, each.description) for each in error.field_violations] == [("messages", "bad")]


def test_an_unknown_code_is_internal() -> None:
    assert isinstance(to_fleet_error(InferenceFailure("bad", reason="X", code="NEW_CODE")), InternalError)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("Request for unknown model: 'm' is not found", "NOT_FOUND", "MODEL_NOT_LOADED"),
        ("[request id: ab] unexpected inference input 'messages' for model 'm'", "FAILED_PRECONDITION",
         "MODEL_LACKS_FEATURE"),
        ("Stub process 'm_0_0' is not healthy.", "UNAVAILABLE", "ENGINE_CRASHED"),
        ("inference request batch-size must be <= 256 for 'm'", "INVALID_ARGUMENT", "BATCH_TOO_LARGE"),
        ("This protocol is restricted, expecting header 'x'", "PERMISSION_DENIED", "MODEL_CONTROL_REFUSED"),
        ("load failed for model 'm': boom\n\nAt:\n  /x.py(1)", "FAILED_PRECONDITION", "MODEL_LOAD_FAILED"),
        ("something new", "INTERNAL", "INFERENCE_FAILED"),
        ("", "INTERNAL", "INFERENCE_FAILED"),
    ],
)  # fmt: skip
def test_tritons_own_words_have_a_type(text: str, code: str, reason: str) -> None:
    error = from_triton_text(text, model="m")
    assert (error.code.name, error.reason) == (code, reason)
    assert "\n" not in error.message
    assert "request id" not in error.message


def _rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def test_a_call_out_of_time_is_a_deadline_error() -> None:
    error = from_rpc_error(_rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), model="m", target="t")
    assert (error.code.name, error.reason) == ("DEADLINE_EXCEEDED", "INFERENCE_DEADLINE_EXCEEDED")


# The second is what a call gets that was just sending when its host was killed.
@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused"),
        (grpc.StatusCode.INTERNAL, "Internal error from Core"),
    ],
)
def test_an_unreachable_host_is_named(code: grpc.StatusCode, details: str) -> None:
    error = from_rpc_error(_rpc_error(code, details), model="m", target="h:1")
    assert error.reason == "INFERENCE_UNAVAILABLE"
    assert "h:1" in error.message


def test_a_failure_in_a_calls_details_keeps_its_type() -> None:
    text = encode_failure(InferenceFailure("no weights", reason="SAFETENSORS_MISSING", code="FAILED_PRECONDITION"))
    error = from_rpc_error(_rpc_error(grpc.StatusCode.INVALID_ARGUMENT, f"load failed: {text}"), model="m", target="t")
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "SAFETENSORS_MISSING")


def test_failures_of_a_block_are_raised_as_fleet_errors() -> None:
    with pytest.raises(FleetError, match="nope"), as_fleet_errors():
        raise InferenceFailure("nope", reason="X")
