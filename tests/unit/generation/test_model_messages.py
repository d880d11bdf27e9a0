from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from evalfleet.generation.v1 import model_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.generation import model_messages
from services.generation.models import ModelRecord, ModelState
from services.generation.registration import Registration
from services.runtime.errors import InvalidArgumentError


def fields_of(check: Callable[[], object]) -> set[str]:
    with pytest.raises(InvalidArgumentError) as caught:
        check()
    return {violation.field for violation in caught.value.field_violations}


def test_a_registration_arrives_with_a_canonical_request_id() -> None:
    message = model_pb2.CreateModelRequest(
        model_id="m", checkpoint_path="/c", dtype="bfloat16", request_id="3F2C8A52-7C1F-4D09-9A35-2F5F0F2F6C11"
    )
    expected = Registration("/c", "m", "bfloat16", "3f2c8a52-7c1f-4d09-9a35-2f5f0f2f6c11")
    assert model_messages.registration(message) == expected
    assert model_messages.registration(model_pb2.CreateModelRequest(checkpoint_path="/c")) == Registration("/c")


def test_a_bad_registration_lists_its_fields() -> None:
    message = model_pb2.CreateModelRequest(model_id="No Good", dtype="float23", request_id="1", engine="vlm")
    assert fields_of(lambda: model_messages.registration(message)) == {
        "model_id",
        "checkpoint_path",
        "dtype",
        "engine",
        "request_id",
    }
    with pytest.raises(InvalidArgumentError, match="did you mean 'float32'"):
        model_messages.registration(model_pb2.CreateModelRequest(checkpoint_path="/c", dtype="float23"))


@given(st.text(max_size=80))
def test_only_ids_that_the_contract_allows_pass(model_id: str) -> None:
    message = model_pb2.CreateModelRequest(checkpoint_path="/c", model_id=model_id)
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789._-"
    if 1 <= len(model_id) <= 63 and set(model_id) <= set(allowed) and model_id[0] not in "._-":
        assert model_messages.registration(message).model_id == model_id
    else:
        assert fields_of(lambda: model_messages.registration(message)) == {"model_id"}


def test_models_are_written_whole() -> None:
    created = datetime(2026, 11, 20, 12, 0, 0, 5000, tzinfo=UTC)
    record = ModelRecord("m", "/c", "d", ModelState.FAILED, "why", "LlamaForCausalLM", "float32", 64, 2**40, created)
    message = model_messages.model_message(record)
    assert (message.name, message.checkpoint_path, message.digest, message.failure) == ("models/m", "/c", "d", "why")
    assert message.state == model_pb2.MODEL_STATE_FAILED
    assert (message.architecture, message.dtype) == ("LlamaForCausalLM", "float32")
    assert (message.context_tokens, message.weight_bytes) == (64, 2**40)
    assert message.create_time.ToDatetime(UTC) == created
