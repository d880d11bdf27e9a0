"""Channels retry what may be retried when they are told to, balance, and carry ids."""

import asyncio
import json
import time
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from services.runtime.calls import bind_ids, current_scope
from services.runtime.channels import open_channel, service_config
from services.runtime.errors import FleetError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from services.runtime.testing import as_bytes, run_in_process, serve_in_process

SERVICE = "test.v1.TestService"
UNARY = f"/{SERVICE}/Unary"


def fails_first(error: FleetError) -> tuple[list[float], Any]:
    attempts: list[float] = []

    async def handle(request: bytes, context: Any) -> bytes:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise error
        return b"done"

    return attempts, handle


@pytest.mark.parametrize("name", [SERVICE, f"{SERVICE}/Unary", UNARY])
async def test_an_idempotent_method_is_retried_when_unavailable(name: str, make_service: Any) -> None:
    attempts, handle = fails_first(UnavailableError("not yet"))
    async with serve_in_process(make_service(unary=handle), retryable_methods=[name]) as channel:
        assert await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"") == b"done"
    assert len(attempts) == 2


async def test_grpc_waits_as_long_as_the_server_says(make_service: Any) -> None:
    # Without the pushback the first retry would come after 0.12 s at the latest.
    attempts, handle = fails_first(ResourceExhaustedError("full", retry_after_seconds=0.6))
    async with serve_in_process(make_service(unary=handle), retryable_methods=[SERVICE]) as channel:
        assert await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"") == b"done"
    assert attempts[1] - attempts[0] >= 0.59


@pytest.mark.parametrize(
    "error", [ResourceExhaustedError("the budget is spent"), InvalidArgumentError("no"), UnavailableError("no retry")]
)
async def test_other_failures_are_not_retried(error: FleetError, make_service: Any) -> None:
    attempts, handle = fails_first(error)
    names = [SERVICE] if not isinstance(error, UnavailableError) else ["other.v1.Service"]
    async with serve_in_process(make_service(unary=handle), retryable_methods=names) as channel:
        with pytest.raises(grpc.RpcError):
            await channel.unary_unary(UNARY, as_bytes, as_bytes)(b"")
    assert len(attempts) == 1


async def test_calls_share_one_connection(make_service: Any) -> None:
    async def tell_peer(request: bytes, context: Any) -> bytes:
        return str(context.peer()).encode()

    async with serve_in_process(make_service(unary=tell_peer)) as channel:
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        peers = await asyncio.gather(*(call(b"") for _ in range(50)))
    assert len(set(peers)) == 1


async def test_calls_go_round_all_replicas(make_service: Any) -> None:
    async def one(request: bytes, context: Any) -> bytes:
        return b"one"

    async def two(request: bytes, context: Any) -> bytes:
        return b"two"

    async with (
        run_in_process(make_service(unary=one)) as first,
        run_in_process(make_service(unary=two)) as second,
        open_channel(f"ipv4:{first.address},{second.address}") as channel,
    ):
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        seen: set[bytes] = set()
        while seen != {b"one", b"two"}:
            seen.add(await call(b""))


async def test_a_replica_that_drains_is_left_out(make_service: Any) -> None:
    async def one(request: bytes, context: Any) -> bytes:
        return b"one"

    async def two(request: bytes, context: Any) -> bytes:
        return b"two"

    ready = asyncio.Event()
    ready.set()

    async def is_ready() -> bool:
        return ready.is_set()

    async with (
        run_in_process(make_service(unary=one)) as first,
        run_in_process(make_service(unary=two, readiness=is_ready)) as second,
        open_channel(f"ipv4:{first.address},{second.address}", health_service=SERVICE) as channel,
    ):
        call = channel.unary_unary(UNARY, as_bytes, as_bytes)
        while await call(b"") != b"two":
            pass
        await second.server.health.drain()
        # The channel hears of it through its own health stream; then the calls all go one way.
        in_a_row = 0
        while in_a_row < 20:
            in_a_row = in_a_row + 1 if await call(b"") == b"one" else 0


async def test_ids_travel_two_hops_and_explicit_metadata_wins(make_service: Any) -> None:
    async def tell_ids(request: bytes, context: Any) -> bytes:
        return json.dumps(current_scope().ids.fields()).encode()

    async with run_in_process(make_service(unary=tell_ids)) as inner, open_channel(inner.address) as onward:

        async def relay(request: bytes, context: Any) -> bytes:
            with bind_ids(item_id="gsm8k/ü"):
                return await onward.unary_unary(UNARY, as_bytes, as_bytes)(b"", metadata=(("x-extra", "1"),))

        async with serve_in_process(make_service(unary=relay)) as channel:
            call = channel.unary_unary(UNARY, as_bytes, as_bytes)
            with bind_ids(run_id="runs/1"):
                ids = json.loads(await call(b"", metadata=(("x-request-id", "mine"),)))
            without = json.loads(await call(b""))
    assert ids == {"request_id": "mine", "run_id": "runs/1", "item_id": "gsm8k/ü"}
    assert without["request_id"]
    assert "run_id" not in without


async def test_messages_up_to_the_limit_pass(make_service: Any) -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    message = bytes(15 * 1024 * 1024)
    async with serve_in_process(make_service(unary=echo)) as channel:
        assert await channel.unary_unary(UNARY, as_bytes, as_bytes)(message) == message
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(UNARY, as_bytes, as_bytes)(bytes(17 * 1024 * 1024))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_generated_stubs_and_all_kinds_go_through(make_service: Any) -> None:
    async def join(requests: Any, context: Any) -> bytes:
        return b"".join([each async for each in requests])

    async def split(request: bytes, context: Any) -> Any:
        for at in range(len(request)):
            yield request[at : at + 1]

    async with serve_in_process(make_service(client_stream=join, server_stream=split)) as channel:
        assert await channel.stream_unary(f"/{SERVICE}/ClientStream", as_bytes, as_bytes)(iter([b"a", b"b"])) == b"ab"
        assert [each async for each in channel.unary_stream(f"/{SERVICE}/ServerStream", as_bytes, as_bytes)(b"ab")] == [
            b"a",
            b"b",
        ]
        typed = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=status_pb2.Status.SerializeToString,
            response_deserializer=status_pb2.Status.FromString,
        )
        assert (await typed(status_pb2.Status())).code == 1
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY


def test_the_service_config_names_what_may_be_retried() -> None:
    config = json.loads(service_config(["a.B", "/a.C/Get"], health_service="a.B"))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "a.B"}
    [method] = config["methodConfig"]
    assert method["name"] == [{"service": "a.B"}, {"service": "a.C", "method": "Get"}]
    assert "methodConfig" not in json.loads(service_config())
