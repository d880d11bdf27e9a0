"""Every call is a span in its caller's trace, whatever kind it is, and hands its place on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.calls import current_traceparent, outgoing_ids
from services.runtime.errors import InternalError, NotFoundError
from services.runtime.item_streams import Item, ItemStream, StreamLimits
from services.runtime.telemetry.spans import tracing_with
from services.runtime.testing import InProcessServer, as_bytes, run_in_process
from tests.fakes.recording_tracer import RecordingTracer

SERVICE = "test.v1.TestService"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = CALLER[:-2] + "00"
OTHER = "00-1bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01"


@asynccontextmanager
async def traced(service: Any) -> AsyncIterator[tuple[InProcessServer, RecordingTracer]]:
    tracer = RecordingTracer()
    with tracing_with(tracer):
        async with run_in_process(service) as running:
            yield running, tracer


async def echo_place(request: bytes, context: Any) -> bytes:
    return dict(outgoing_ids())["traceparent"].encode()


async def test_a_call_is_a_part_of_its_caller_s_trace(make_service: Any) -> None:
    async with traced(make_service(unary=echo_place)) as (running, tracer):
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        place = await call(b"x", metadata=(("traceparent", CALLER), ("x-run-id", "r1")))
        (span,) = tracer.named(f"{SERVICE}/Unary")
    assert (span.parent, span.kind, span.has_ended) == (CALLER, "server", True)
    assert place.decode() == span.traceparent
    assert span.attributes.pop("evalfleet.request.id")
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "Unary",
        "rpc.grpc.status_code": 0,
        "evalfleet.run.id": "r1",
    }


async def test_a_call_of_nobody_s_trace_begins_one_and_one_that_is_not_sampled_none(make_service: Any) -> None:
    async with traced(make_service(unary=echo_place)) as (running, tracer):
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        await call(b"x")
        await call(b"x", metadata=(("traceparent", "nonsense"),))
        assert await call(b"x", metadata=(("traceparent", UNSAMPLED),)) == UNSAMPLED.encode()
        await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
    assert [each.parent for each in tracer.spans] == ["", ""]


@pytest.mark.parametrize(
    ("error", "code", "failure"),
    [(NotFoundError("no such thing"), 5, ""), (InternalError("broken", reason="BROKEN"), 13, "BROKEN")],
)
async def test_only_the_service_s_own_trouble_is_a_failure(
    make_service: Any, error: Exception, code: int, failure: str
) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise error

    async with traced(make_service(unary=fail)) as (running, tracer):
        with pytest.raises(grpc.RpcError):
            await running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"")
    (span,) = tracer.spans
    assert (span.attributes["rpc.grpc.status_code"], span.failure, span.has_ended) == (code, failure, True)


async def test_items_of_one_stream_belong_to_their_own_traces(make_service: Any) -> None:
    async def answer(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async def items() -> AsyncIterator[Item[bytes]]:
            async for each in requests:
                item_id, _, traceparent = each.decode().partition(" ")
                yield Item(item_id, b"", traceparent=traceparent)

        async def place(request: bytes) -> str:
            return current_traceparent()

        stream = ItemStream(items(), place, StreamLimits(8, 60.0), name="item")
        async for outcome in stream.outcomes():
            yield f"{outcome.item_id} {outcome.result}".encode()

    async with traced(make_service(bidi=answer)) as (running, tracer):
        call = running.channel.stream_stream(f"/{SERVICE}/Bidi", as_bytes, as_bytes)
        sent = iter([f"a {OTHER}".encode(), b"b", f"c {UNSAMPLED}".encode()])
        places = dict([each.decode().split(" ") async for each in call(sent, metadata=(("traceparent", CALLER),))])
    (stream,) = tracer.named(f"{SERVICE}/Bidi")
    own, of_the_stream = sorted(tracer.named("item"), key=lambda each: str(each.attributes["evalfleet.item.id"]))
    assert (own.parent, own.links, places["a"]) == (OTHER, (stream.traceparent,), own.traceparent)
    # One without a trace of its own is a part of the stream's; one that is not sampled stays so.
    assert (of_the_stream.parent, of_the_stream.links) == (stream.traceparent, ())
    assert places["c"] == UNSAMPLED
    assert all(each.has_ended for each in tracer.spans)
