"""A server takes its ports or says why not, announces itself, and lists what it serves."""

import asyncio
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.errors import StartupError
from services.runtime.free_ports import free_port
from services.runtime.server import FleetServer, serve
from services.runtime.stopping import StopRequests
from services.runtime.testing import as_bytes, run_in_process
from tests.patience import LONGEST_WAIT_SECONDS, until

SERVICE = "test.v1.TestService"


async def echo(request: bytes, context: Any) -> bytes:
    return request


@pytest.fixture
def taken_port() -> Any:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def test_reflection_lists_the_services(make_service: Any) -> None:
    services = (make_service(unary=echo), make_service(unary=echo, name="test.v1.Other"))
    async with run_in_process(*services) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        answer = await call.read()
        call.cancel()
    assert {each.name for each in answer.list_services_response.service} == {
        SERVICE,
        "test.v1.Other",
        "evalfleet.server.v1.ServerService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_two_servers_cannot_share_a_port(make_service: Any, make_settings: Any) -> None:
    async with run_in_process(make_service(unary=echo)) as running:
        port = int(running.address.rpartition(":")[2])
        second = FleetServer(make_settings(port=port), [make_service(unary=echo)], registry=CollectorRegistry())
        with pytest.raises(StartupError) as caught:
            second.bind()
        await second.close()
    assert caught.value.reason == "PORT_IN_USE"
    assert f"127.0.0.1:{port}" in caught.value.message
    assert "EVALFLEET_PORT" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "reason", "advice"),
    [
        ({"metrics_port": "taken"}, "PORT_IN_USE", "EVALFLEET_METRICS_PORT"),
        ({"host": "no-such-host.invalid", "allow_insecure": True}, "HOST_NOT_FOUND", "EVALFLEET_HOST"),
        ({"host": "192.0.2.1", "allow_insecure": True}, "HOST_NOT_LOCAL", "EVALFLEET_HOST"),
    ],
)
async def test_what_cannot_be_listened_on_is_explained(
    fields: dict[str, Any], reason: str, advice: str, taken_port: int, make_service: Any, make_settings: Any
) -> None:
    filled = {name: taken_port if value == "taken" else value for name, value in fields.items()}
    server = FleetServer(make_settings(**filled), [make_service(unary=echo)], registry=CollectorRegistry())
    with pytest.raises(StartupError) as caught:
        server.bind()
    await server.close()
    assert caught.value.reason == reason
    assert advice in caught.value.message


async def test_ipv6_addresses_are_bracketed(make_service: Any, make_settings: Any) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    async with run_in_process(make_service(unary=echo), settings=make_settings(host="::1")) as running:
        assert running.address.startswith("[::1]:")
        assert await running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"a") == b"a"


async def test_the_ready_file_holds_the_address_while_serving(
    tmp_path: Path, make_service: Any, make_settings: Any
) -> None:
    ready_file = tmp_path / "ready"
    ready_file.write_text("of an earlier process")
    async with run_in_process(make_service(unary=echo), settings=make_settings(ready_file=ready_file)) as running:
        assert ready_file.read_text() == f"{running.address}\n"
    assert os.listdir(tmp_path) == ["ready"]


@pytest.mark.parametrize("place", ["missing/ready", "."])
async def test_a_ready_file_that_cannot_be_one_is_explained(
    place: str, tmp_path: Path, make_service: Any, make_settings: Any
) -> None:
    settings = make_settings(ready_file=tmp_path / place)
    with pytest.raises(StartupError, match="EVALFLEET_READY_FILE"):
        async with run_in_process(make_service(unary=echo), settings=settings):
            pass


async def test_metrics_are_served_over_http_until_the_end(make_service: Any, make_settings: Any) -> None:
    port = free_port("127.0.0.1")
    async with run_in_process(make_service(unary=echo), settings=make_settings(metrics_port=port)) as running:
        await running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"a")
        page = await asyncio.to_thread(_get, port)
    assert f'grpc_server_call_started_total{{grpc_method="{SERVICE}/Unary"}} 1.0' in page
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def _get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text: str = response.read().decode()
    return text


async def test_serve_runs_its_hooks_around_the_calls(tmp_path: Path, make_service: Any, make_settings: Any) -> None:
    order: list[str] = []
    stop = StopRequests()
    started = asyncio.Event()

    async def startup() -> None:
        order.append("startup")

    async def shutdown() -> None:
        order.append("shutdown")

    async def is_ready() -> bool:
        order.append("ready")
        started.set()
        return True

    serving = asyncio.create_task(
        serve(
            make_settings(readiness_interval_seconds=3600.0),
            [make_service(unary=echo, readiness=is_ready)],
            startup=startup,
            shutdown=shutdown,
            stop=stop,
        )
    )
    await started.wait()
    stop.request("the test is over")
    await serving
    assert order == ["startup", "ready", "shutdown"]


async def test_a_stop_during_startup_interrupts_it(make_service: Any, make_settings: Any) -> None:
    stop = StopRequests()
    loading, cleaned = asyncio.Event(), asyncio.Event()

    async def load_for_ever() -> None:
        loading.set()
        await asyncio.Event().wait()

    async def shutdown() -> None:
        cleaned.set()

    serving = asyncio.create_task(
        serve(make_settings(), [make_service()], startup=load_for_ever, shutdown=shutdown, stop=stop)
    )
    await loading.wait()
    stop.request("SIGTERM")
    await serving
    assert cleaned.is_set()


async def test_serve_listens_for_signals_by_itself(make_service: Any, make_settings: Any) -> None:
    started = asyncio.Event()

    async def is_ready() -> bool:
        started.set()
        return True

    serving = asyncio.create_task(serve(make_settings(), [make_service(readiness=is_ready)]))
    await started.wait()
    signal.raise_signal(signal.SIGTERM)
    await serving
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_startup_fails_as_it_failed_and_frees_the_port(make_service: Any, make_settings: Any) -> None:
    async def startup() -> None:
        raise StartupError("no Triton at localhost:8001; start it first")

    port = free_port("127.0.0.1")
    with pytest.raises(StartupError, match="no Triton"):
        await serve(make_settings(port=port), [make_service()], startup=startup, stop=StopRequests())
    async with run_in_process(make_service(unary=echo), settings=make_settings(port=port)) as running:
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        assert await call(b"a", wait_for_ready=True) == b"a"


def test_options_let_our_own_pings_in() -> None:
    """The server's tolerance must be below the clients' interval, or it closes their connections."""
    from services.runtime import channels, server
    from services.runtime.settings import ServiceSettings

    options = dict(server.server_options(ServiceSettings(max_connection_age_seconds=300)))
    assert options[server.PING_INTERVAL_OPTION] < channels.KEEPALIVE_SECONDS * 1000
    assert options["grpc.so_reuseport"] == 0
    assert options["grpc.max_connection_age_ms"] == 300_000
    assert options["grpc.max_connection_age_grace_ms"] == 3_600_000
    assert options["grpc.max_receive_message_length"] == 16 * 1024 * 1024
    # Who asks for more than a method has places and a queue for is told so, and does not wait unheard.
    assert options["grpc.max_concurrent_streams"] > ServiceSettings().max_concurrent_calls + 256


async def test_a_connection_has_so_many_calls_at_once(make_service: Any, make_settings: Any) -> None:
    begun: list[bytes] = []
    gate = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.append(request)
        if request:
            await gate.wait()
        return request

    settings = make_settings(max_streams_per_connection=2)
    async with run_in_process(make_service(unary=wait), settings=settings) as running:
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        calls = [asyncio.ensure_future(call(str(number).encode(), wait_for_ready=True)) for number in range(3)]
        await until(lambda: len(begun) == 2)
        alone = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(running.address, options=alone) as other:
            assert await other.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"") == b""
        assert len(begun) == 3
        gate.set()
        assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]


async def test_a_long_call_outlives_many_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same options, thirty times as fast: gRPC ignores options that it does not know."""
    from services.runtime import channels, server
    from services.runtime.settings import ServiceSettings

    async def slow(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(5.5)
        return request

    faster = dict(server.server_options(ServiceSettings())) | {server.PING_INTERVAL_OPTION: 300}
    serving = grpc.aio.server(options=list(faster.items()))
    handler: Any = grpc.unary_unary_rpc_method_handler(slow)
    serving.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Unary": handler}),))
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    monkeypatch.setattr(channels, "KEEPALIVE_SECONDS", 1.0)
    try:
        async with channels.open_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"a", timeout=60) == b"a"
    finally:
        await serving.stop(None)


async def test_old_connections_are_renewed_without_losing_calls(make_service: Any, make_settings: Any) -> None:
    async def tell_peer(request: bytes, context: Any) -> bytes:
        return str(context.peer()).encode()

    settings = make_settings(max_connection_age_seconds=1.0, drain_grace_seconds=60.0)
    async with run_in_process(make_service(unary=tell_peer), settings=settings) as running:
        call = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        peers: set[bytes] = set()
        while len(peers) < 2:
            try:
                peers.add(await call(b"", wait_for_ready=True))
            except grpc.RpcError as error:
                pytest.fail(f"a call was lost: {error}")


class Renewals:
    """Answers with the connection that a call came by; ``hold`` is answered when told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.peers: set[str] = set()

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.peers.add(context.peer())
        if request == b"hold":
            await self.go_on.wait()
        return request

    async def happen(self, channel: grpc.aio.Channel, times: int) -> None:
        """Make calls until connections have been renewed so often."""
        call = channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while len(self.peers) <= times:
                assert await call(b"", wait_for_ready=True) == b""


async def test_a_call_that_is_longer_than_its_connection_may_be_is_not_cut(
    make_service: Any, make_settings: Any
) -> None:
    renewals = Renewals()
    # The second renewal comes long after the drain's grace, which says nothing of connections.
    settings = make_settings(max_connection_age_seconds=1.0, drain_grace_seconds=0.1)
    async with run_in_process(make_service(unary=renewals.unary), settings=settings) as running:
        held = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"hold")
        await renewals.happen(running.channel, 2)
        renewals.go_on.set()
        assert await held == b"hold"


async def test_a_drain_ends_calls_of_old_connections_in_its_own_time(make_service: Any, make_settings: Any) -> None:
    renewals = Renewals()
    settings = make_settings(
        max_connection_age_seconds=1.0, drain_grace_seconds=0.1, default_deadline_seconds=2 * LONGEST_WAIT_SECONDS
    )
    async with run_in_process(make_service(unary=renewals.unary), settings=settings) as running:
        held = running.channel.unary_unary(f"/{SERVICE}/Unary", as_bytes, as_bytes)(b"hold")
        await renewals.happen(running.channel, 1)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await running.server.drain(asyncio.Event())
            with pytest.raises((grpc.RpcError, asyncio.CancelledError)):
                await held
