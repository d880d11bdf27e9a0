"""Who is no service of the fleet has no say in what the fleet records."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.runtime.calls import outgoing_ids
from services.runtime.item_streams import Item, ItemStream, StreamLimits
from services.runtime.security.caller_keys import new_key
from services.runtime.server import FleetServer
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry.spans import item_spans, tracing_with
from services.runtime.testing import as_bytes
from tests.authority import Authority, Leaf
from tests.fakes.recording_tracer import RecordingTracer
from tests.unit.runtime.conftest import MakeSettings
from tests.unit.runtime.security.serving import SAFETY, Metadata, bearer, call, hosted, running

TOLD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ITEM = "00-1bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01"
TRACED: Metadata = (("traceparent", TOLD),)


async def hand_on(request: bytes, context: Any) -> bytes:
    """Answer with what the services behind this one would be told of the trace."""
    with item_spans("batch item", [(ITEM, "i")]):
        return dict(outgoing_ids()).get("traceparent", "").encode()


async def items(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async def read() -> AsyncIterator[Item[bytes]]:
        async for each in requests:
            yield Item(each.decode(), each, traceparent=ITEM)

    async def answer(request: bytes) -> bytes:
        return dict(outgoing_ids()).get("traceparent", "").encode()

    async for outcome in ItemStream(read(), answer, StreamLimits(4, 60.0), name="stream item").outcomes():
        assert isinstance(outcome.result, bytes)
        yield outcome.result


@pytest.fixture
def key() -> tuple[str, str]:
    return new_key()


@pytest.fixture
def settings(
    make_settings: MakeSettings, tmp_path: Path, authority: Authority, server_leaf: Leaf, key: tuple[str, str]
) -> ServiceSettings:
    (tmp_path / "keys.toml").write_text(f'[callers.team]\nroles = ["classify"]\nsha256 = ["{key[1]}"]\n')
    return make_settings(
        tls_cert=server_leaf.cert,
        tls_key=server_leaf.key,
        tls_ca=authority.file,
        tls_peers="evaluation.evalfleet.svc",
        caller_keys=tmp_path / "keys.toml",
        audit_file=tmp_path / "audit.jsonl",
    )


@asynccontextmanager
async def traced(settings: ServiceSettings, tracer: RecordingTracer | None) -> AsyncIterator[FleetServer]:
    service = hosted(
        Classify=grpc.unary_unary_rpc_method_handler(hand_on),
        StreamClassify=grpc.stream_stream_rpc_method_handler(items),
    )
    with tracing_with(tracer):
        async with running(settings, service) as server:
            yield server


def channel_of(server: FleetServer, authority: Authority, leaf: Leaf) -> grpc.aio.Channel:
    parts = (authority.file.read_bytes(), leaf.key.read_bytes(), leaf.cert.read_bytes())
    return grpc.aio.secure_channel(server.address, grpc.ssl_channel_credentials(*parts))


async def classify(channel: grpc.aio.Channel, metadata: Metadata) -> str:
    method = channel.unary_unary(f"/{SAFETY}/Classify", as_bytes, as_bytes)
    return (await method(b"", timeout=20, metadata=metadata)).decode()


async def test_our_own_rate_decides_and_the_caller_s_trace_is_linked(
    settings: ServiceSettings, authority: Authority, key: tuple[str, str]
) -> None:
    guest = authority.sign("guest", "guest.example")
    for samples in (True, False):
        tracer = RecordingTracer(samples_new=samples)
        async with traced(settings, tracer) as server, channel_of(server, authority, guest) as channel:
            place = await classify(channel, (*TRACED, *bearer(key[0])))
            stream = channel.stream_stream(f"/{SAFETY}/StreamClassify", as_bytes, as_bytes)
            sent = stream(iter([b"a"]), metadata=(*TRACED, *bearer(key[0])), timeout=20)
            [of_item] = [each.decode() async for each in sent]
        assert place.endswith("01") == of_item.endswith("01") == samples
        assert TOLD.split("-")[1] not in place + of_item
        if not samples:
            assert tracer.spans == []
            continue
        one, carrier, item = tracer.spans
        assert (one.parent, one.links, one.attributes["evalfleet.caller"]) == ("", (TOLD,), "team")
        assert (item.parent, item.links, item.traceparent) == (carrier.traceparent, (ITEM,), of_item)


async def test_what_lies_behind_is_not_told_either(
    settings: ServiceSettings, authority: Authority, key: tuple[str, str]
) -> None:
    guest = authority.sign("guest", "guest.example")
    async with traced(settings, None) as server, channel_of(server, authority, guest) as channel:
        assert await classify(channel, (*TRACED, *bearer(key[0]))) == ""


async def test_strangers_are_not_recorded(settings: ServiceSettings, authority: Authority) -> None:
    tracer = RecordingTracer()
    stranger = authority.sign("stranger", "stranger.example")
    async with traced(settings, tracer) as server, channel_of(server, authority, stranger) as channel:
        error = await call(channel, metadata=TRACED)
        assert error is not None
        assert error.reason == "CALLER_UNKNOWN"
    assert tracer.spans == []


async def test_a_service_of_the_fleet_decides_for_its_trace(
    settings: ServiceSettings, authority: Authority, client_leaf: Leaf
) -> None:
    tracer = RecordingTracer(samples_new=False)
    async with traced(settings, tracer) as server, channel_of(server, authority, client_leaf) as channel:
        place = await classify(channel, TRACED)
    whole, item = tracer.spans
    assert (whole.parent, place, item.parent) == (TOLD, whole.traceparent, ITEM)
