"""Metrics carry gRFC A66's names and count what happened."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.errors import NotFoundError
from services.runtime.testing import as_bytes, run_in_process

SERVICE = "test.v1.TestService"


async def double(request: bytes, context: Any) -> bytes:
    if not request:
        raise NotFoundError("nothing there")
    return request * 2


async def double_each(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for each in requests:
        yield each * 2


async def test_calls_are_counted_by_method_and_status(make_service: Any) -> None:
    async with run_in_process(make_service(unary=double, bidi=double_each)) as running:
        channel, registry = running.channel, running.registry
        for _ in range(3):
            await channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(bytes(1500))
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"")
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary(f"/{SERVICE}/Nope", as_bytes, as_bytes)(b"")
        stream = channel.stream_stream(f"/{SERVICE}/Bidi", as_bytes, as_bytes)(iter([bytes(10), bytes(20)]))
        assert [len(each) async for each in stream] == [20, 40]

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, labels)

        unary, bidi = f"{SERVICE}/Unary", f"{SERVICE}/Bidi"
        assert value("grpc_server_call_started_total", grpc_method=unary) == 4
        assert value("grpc_server_call_started_total", grpc_method="other") == 1
        ok = {"grpc_method": unary, "grpc_status": "OK"}
        assert value("grpc_server_call_duration_seconds_count", **ok) == 3
        duration = value("grpc_server_call_duration_seconds_sum", **ok)
        assert duration is not None
        assert 0 < duration < 60
        assert value("grpc_server_call_duration_seconds_count", grpc_method=unary, grpc_status="NOT_FOUND") == 1
        received = "grpc_server_call_rcvd_total_compressed_message_size_bytes"
        sent = "grpc_server_call_sent_total_compressed_message_size_bytes"
        assert value(f"{received}_sum", **ok) == 4500
        assert value(f"{sent}_sum", **ok) == 9000
        # 1500 bytes lie between the bounds of 1 and 2 KiB, 3000 between those of 2 and 4 KiB.
        assert [value(f"{received}_bucket", **ok, le=bound) for bound in ("1024.0", "2048.0", "+Inf")] == [0, 3, 3]
        assert [value(f"{sent}_bucket", **ok, le=bound) for bound in ("2048.0", "4096.0", "+Inf")] == [0, 3, 3]
        streamed = {"grpc_method": bidi, "grpc_status": "OK"}
        assert value(f"{received}_sum", **streamed) == 30
        assert value(f"{sent}_sum", **streamed) == 60


async def test_the_exposition_is_valid_and_named_as_in_a66(make_service: Any) -> None:
    async with run_in_process(make_service(unary=double)) as running:
        await running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"a")
        exposition = generate_latest(running.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(exposition)}
    assert {name: family.type for name, family in families.items() if name.startswith("grpc_server")} == {
        "grpc_server_call_started": "counter",
        "grpc_server_call_duration_seconds": "histogram",
        "grpc_server_call_sent_total_compressed_message_size_bytes": "histogram",
        "grpc_server_call_rcvd_total_compressed_message_size_bytes": "histogram",
    }
    for family in families.values():
        if family.type == "histogram":
            counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert counts == sorted(counts)
