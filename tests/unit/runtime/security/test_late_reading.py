"""Where callers prove who they are, their messages are read afterwards; what they notice of it is nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.safety.v1 import safety_pb2

from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.security.caller_keys import new_key
from services.runtime.testing import as_bytes
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS
from tests.unit.runtime.conftest import MakeSettings
from tests.unit.runtime.security.serving import SAFETY, Metadata, bearer, hosted, running

TOO_LARGE = 2_000_000


async def classify(request: safety_pb2.ClassifyRequest, context: Any) -> safety_pb2.ClassifyResponse:
    if request.guard == "wait":
        await asyncio.Event().wait()
    return safety_pb2.ClassifyResponse(verdict=safety_pb2.Verdict(error_reason=request.guard))


async def classify_all(request: safety_pb2.ClassifyRequest, context: Any) -> AsyncIterator[safety_pb2.ClassifyResponse]:
    for _ in range(2):
        yield await classify(request, context)


CODECS = (safety_pb2.ClassifyRequest.FromString, safety_pb2.ClassifyResponse.SerializeToString)
SERVICE = hosted(
    Classify=grpc.unary_unary_rpc_method_handler(classify, *CODECS),
    GetGuard=grpc.unary_stream_rpc_method_handler(classify_all, *CODECS),
)


@pytest.fixture
async def asked(make_settings: MakeSettings, tmp_path: Path) -> AsyncIterator[tuple[grpc.aio.Channel, Metadata]]:
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(f'[callers.team]\nroles = ["classify", "read"]\nsha256 = ["{digest}"]\n')
    settings = make_settings(
        caller_keys=tmp_path / "keys.toml", audit_file=tmp_path / "audit.jsonl", max_message_bytes=TOO_LARGE // 2
    )
    async with running(settings, SERVICE) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield channel, bearer(key)


async def failure(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return from_rpc_error(caught.value)


async def test_answers_come_as_ever(asked: tuple[grpc.aio.Channel, Metadata]) -> None:
    channel, metadata = asked
    request = safety_pb2.ClassifyRequest(guard="guards/a").SerializeToString()
    unary = channel.unary_unary(f"/{SAFETY}/Classify", as_bytes, safety_pb2.ClassifyResponse.FromString)
    answer = await unary(request, metadata=metadata, timeout=LONGEST_WAIT_SECONDS)
    assert answer.verdict.error_reason == "guards/a"
    stream = channel.unary_stream(f"/{SAFETY}/GetGuard", as_bytes, safety_pb2.ClassifyResponse.FromString)
    assert [each async for each in stream(request, metadata=metadata, timeout=LONGEST_WAIT_SECONDS)] == [answer] * 2


@pytest.mark.parametrize("method", ["Classify", "GetGuard"])
async def test_messages_that_are_wrong_are_refused_as_ever(
    method: str, asked: tuple[grpc.aio.Channel, Metadata]
) -> None:
    channel, metadata = asked
    path = f"/{SAFETY}/{method}"
    kind = channel.unary_unary if method == "Classify" else channel.unary_stream
    call: Any = kind(path, as_bytes, as_bytes)
    error = await failure(call(b"\xff\xff", metadata=metadata, timeout=LONGEST_WAIT_SECONDS))
    assert error.reason == "MALFORMED_REQUEST"
    error = await failure(call(b"x" * TOO_LARGE, metadata=metadata, timeout=LONGEST_WAIT_SECONDS))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    nothing: Any = channel.stream_stream(path, as_bytes, as_bytes)
    error = await failure(nothing(iter(()), metadata=metadata, timeout=LONGEST_WAIT_SECONDS))
    assert error.reason == "REQUEST_MISSING"


async def test_deadlines_hold_as_ever(asked: tuple[grpc.aio.Channel, Metadata]) -> None:
    channel, metadata = asked
    request = safety_pb2.ClassifyRequest(guard="wait").SerializeToString()
    unary = channel.unary_unary(f"/{SAFETY}/Classify", as_bytes, as_bytes)
    error = await failure(unary(request, metadata=metadata, timeout=GROWING_SECONDS[0]))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stranger_is_refused_before_its_message_is_there(asked: tuple[grpc.aio.Channel, Metadata]) -> None:
    channel, _ = asked
    # The message never comes: whoever read first would wait for it.
    call = channel.stream_unary(f"/{SAFETY}/Classify", as_bytes, as_bytes)(timeout=LONGEST_WAIT_SECONDS)
    error = await failure(call)
    assert error.reason == "CALLER_UNKNOWN"
