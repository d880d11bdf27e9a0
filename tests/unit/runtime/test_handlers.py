"""Handlers of all four kinds, in both styles, behave the same when they succeed, fail, abort or are cancelled."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from structlog.testing import capture_logs

from services.runtime.calls import current_scope
from services.runtime.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
    from_rpc_error,
)
from services.runtime.server import HostedService
from services.runtime.testing import as_bytes, serve_in_process
from tests.patience import until

SERVICE = "/test.v1.TestService"
KINDS = ("unary", "server_stream", "client_stream", "bidi")


async def start(channel: grpc.aio.Channel, kind: str, *messages: bytes) -> list[bytes]:
    """Make one call of a kind and return its answers."""

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    match kind:
        case "unary":
            return [await channel.unary_unary(f"{SERVICE}/Unary", as_bytes, as_bytes)(messages[0])]
        case "server_stream":
            return [
                each async for each in channel.unary_stream(f"{SERVICE}/ServerStream", as_bytes, as_bytes)(messages[0])
            ]
        case "client_stream":
            return [await channel.stream_unary(f"{SERVICE}/ClientStream", as_bytes, as_bytes)(requests())]
        case _:
            return [each async for each in channel.stream_stream(f"{SERVICE}/Bidi", as_bytes, as_bytes)(requests())]


async def unary(request: bytes, context: Any) -> bytes:
    return request + b"!"


async def split(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for at in range(len(request)):
        yield request[at : at + 1]


async def split_by_writing(request: bytes, context: Any) -> None:
    for at in range(len(request)):
        await context.write(request[at : at + 1])


async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"".join([each async for each in requests])


async def join_by_reading(requests: object, context: Any) -> bytes:
    joined = b""
    while (message := await context.read()) is not grpc.aio.EOF:
        joined += message
    return joined


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each + b"!"


async def echo_by_writing(requests: object, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message + b"!")


@pytest.mark.parametrize("style", ["generators", "coroutines"])
async def test_every_kind_answers(style: str, make_service: Any) -> None:
    if style == "generators":
        service = make_service(unary=unary, server_stream=split, client_stream=join, bidi=echo)
    else:
        service = make_service(
            unary=unary, server_stream=split_by_writing, client_stream=join_by_reading, bidi=echo_by_writing
        )
    async with serve_in_process(service) as channel:
        for _ in range(2):  # the second call meets the wrapped handler of the first
            assert await start(channel, "unary", b"a") == [b"a!"]
            assert await start(channel, "server_stream", b"abc") == [b"a", b"b", b"c"]
            assert await start(channel, "client_stream", b"a", b"b") == [b"ab"]
            assert await start(channel, "bidi", b"a", b"b") == [b"a!", b"b!"]


def failing(make_service: Any, error: Exception) -> HostedService:
    async def fail(request: object, context: Any) -> bytes:
        raise error

    async def fail_late(request: object, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    service: HostedService = make_service(unary=fail, server_stream=fail_late, client_stream=fail, bidi=fail_late)
    return service


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_fails_typed(kind: str, make_service: Any) -> None:
    service = failing(make_service, NotFoundError("no suite 'x'", reason="SUITE_NOT_FOUND", metadata={"name": "x"}))
    async with serve_in_process(service) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await start(channel, kind, b"a")
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason, error.metadata) == (NotFoundError, "SUITE_NOT_FOUND", {"name": "x"})


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_hides_unknown_exceptions(kind: str, make_service: Any) -> None:
    async with serve_in_process(failing(make_service, RuntimeError("password=hunter2"))) as channel:
        with capture_logs() as lines, pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(channel, kind, b"a")
    error = from_rpc_error(caught.value)
    assert isinstance(error, InternalError)
    assert "hunter2" not in repr(caught.value)
    [line] = [line for line in lines if line["event"] == "internal_error"]
    assert line["incident"] == error.metadata["incident"]


@pytest.mark.parametrize("kind", KINDS)
async def test_cancellation_reaches_every_kind(kind: str, make_service: Any) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: object, context: Any) -> bytes:
        try:
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async def wait_streaming(request: object, context: Any) -> AsyncIterator[bytes]:
        yield await wait(request, context)

    service = make_service(unary=wait, server_stream=wait_streaming, client_stream=wait, bidi=wait_streaming)
    async with serve_in_process(service) as channel:
        call = asyncio.create_task(start(channel, kind, b"a"))
        await entered.wait()
        call.cancel()
        await cancelled.wait()


async def test_an_abandoned_stream_runs_its_handlers_clean_up(make_service: Any) -> None:
    cleaned = asyncio.Event()

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
        finally:
            cleaned.set()

    async with serve_in_process(make_service(server_stream=endless)) as channel:
        call = channel.unary_stream(f"{SERVICE}/ServerStream", as_bytes, as_bytes)(b"")
        assert await call.read() == b"more"
        call.cancel()
        await cleaned.wait()


async def test_a_handler_may_abort_or_set_a_code_itself(make_service: Any) -> None:
    async def abort(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "past the end", (("x-at", "9"),))
        return b""

    async def set_code(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"partial"
        context.set_code(grpc.StatusCode.DATA_LOSS)

    async def set_number(requests: object, context: Any) -> None:
        context.set_code(grpc.StatusCode.ABORTED.value[0])
        context.set_details("busy")

    service = make_service(unary=abort, server_stream=set_code, client_stream=set_number)
    with capture_logs() as lines:
        async with serve_in_process(service) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as aborted:
                await start(channel, "unary", b"")
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await start(channel, "server_stream", b"")
            with pytest.raises(grpc.aio.AioRpcError) as busy:
                await start(channel, "client_stream", b"")
    assert aborted.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert dict(aborted.value.trailing_metadata())["x-at"] == "9"
    assert lost.value.code() is grpc.StatusCode.DATA_LOSS
    assert (busy.value.code(), busy.value.details()) == (grpc.StatusCode.ABORTED, "busy")
    finished = [line["code"] for line in lines if line["event"] == "call_finished"]
    assert finished == ["OUT_OF_RANGE", "DATA_LOSS", "ABORTED"]


async def test_trailers_that_a_handler_set_survive_its_failure(make_service: Any) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-cost", "12"),))
        raise NotFoundError("gone")

    async with serve_in_process(make_service(unary=fail)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await start(channel, "unary", b"")
    assert dict(caught.value.trailing_metadata())["x-cost"] == "12"
    assert from_rpc_error(caught.value).message == "gone"


async def test_bytes_that_are_no_message_are_the_callers_fault() -> None:
    async def shout(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=request.value.upper())

    async def shout_all(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        return StringValue(value="".join([each.value async for each in requests]))

    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(shout, StringValue.FromString, StringValue.SerializeToString),
        "ClientStream": grpc.stream_unary_rpc_method_handler(
            shout_all, StringValue.FromString, StringValue.SerializeToString
        ),
    }
    generic = grpc.method_handlers_generic_handler("test.v1.TestService", methods)
    service = HostedService("test.v1.TestService", lambda server: server.add_generic_rpc_handlers((generic,)))
    async with serve_in_process(service) as channel:
        good = StringValue(value="a").SerializeToString()
        assert StringValue.FromString((await start(channel, "unary", good))[0]).value == "A"
        for kind in ("unary", "client_stream"):
            with pytest.raises(grpc.RpcError) as caught:
                await start(channel, kind, b"\xff\xff\xff")
            error = from_rpc_error(caught.value)
            assert (type(error), error.reason) == (InvalidArgumentError, "MALFORMED_REQUEST")


async def test_a_service_may_read_a_methods_requests_by_itself(make_service: Any) -> None:
    async def tell(request: int, context: Any) -> bytes:
        return f"{request} bytes".encode()

    def count(received: bytes) -> int:
        if not received:
            raise ValueError("nothing was received")
        return len(received)

    service = make_service(unary=tell, decoders={"Unary": count})
    async with serve_in_process(service) as channel:
        assert await start(channel, "unary", b"abc") == [b"3 bytes"]
        with pytest.raises(grpc.RpcError) as caught:
            await start(channel, "unary", b"")
    assert from_rpc_error(caught.value).reason == "MALFORMED_REQUEST"


@pytest.mark.parametrize("wrong", ["returns nothing", "is not async"])
async def test_a_broken_handler_is_an_internal_error(wrong: str, make_service: Any) -> None:
    async def returns_nothing(request: bytes, context: Any) -> None:
        return None

    def is_not_async(request: bytes, context: Any) -> bytes:
        return request

    handler = returns_nothing if wrong == "returns nothing" else is_not_async
    async with serve_in_process(make_service(unary=handler)) as channel:
        with capture_logs(), pytest.raises(grpc.RpcError) as caught:
            await start(channel, "unary", b"")
    assert isinstance(from_rpc_error(caught.value), InternalError)


@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_methods_are_typed_too(kind: str, make_service: Any) -> None:
    async with serve_in_process(make_service()) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await start(channel, kind, b"a")
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason) == (UnimplementedError, "METHOD_NOT_FOUND")


async def test_nothing_of_a_call_is_left_when_it_is_over(make_service: Any) -> None:
    """Without a garbage collection: what only a collection frees would keep memory for long under load."""

    class Kept:
        pass

    kept: list[weakref.ref[Kept]] = []

    async def handle(request: object, context: Any) -> bytes:
        mine = Kept()
        kept.append(weakref.ref(mine))
        current_scope()
        if len(kept) % 3 == 0:
            raise NotFoundError("gone")
        return b""

    async def stream(request: object, context: Any) -> AsyncIterator[bytes]:
        yield await handle(request, context)

    service = make_service(unary=handle, server_stream=stream, client_stream=handle, bidi=stream)
    async with serve_in_process(service) as channel:
        gc.collect()
        gc.disable()
        try:
            for kind in KINDS * 3:
                try:
                    await start(channel, kind, b"a")
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017 - both outcomes are right here
            # The tasks of the last calls may still be ending.
            await until(lambda: not any(ref() is not None for ref in kept))
        finally:
            gc.enable()
