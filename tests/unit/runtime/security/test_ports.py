"""Ports in plaintext only where nobody else can reach them; with certificates, nobody without one gets in."""

import asyncio
import datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from services.runtime.channels import open_channel
from services.runtime.errors import StartupError
from services.runtime.free_ports import free_port
from services.runtime.security import reloading
from services.runtime.security.certificates import CertificateFiles
from services.runtime.server import FleetServer
from services.runtime.testing import as_bytes, run_in_process
from tests.authority import Authority, Leaf
from tests.patience import until
from tests.unit.runtime.conftest import MakeService, MakeSettings

METHOD = "/test.v1.TestService/Unary"


async def echo(request: bytes, context: Any) -> bytes:
    return request


def tls(leaf: Leaf, authority: Authority | None) -> dict[str, Any]:
    return {"tls_cert": leaf.cert, "tls_key": leaf.key, "tls_ca": authority.file if authority else None}


async def call(channel: grpc.aio.Channel) -> grpc.StatusCode:
    """Make one call and return how it ended."""
    try:
        await channel.unary_unary(METHOD, as_bytes, as_bytes)(b"x", timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def dial(address: str, leaf: Leaf | None, trusted: Authority) -> grpc.aio.Channel:
    """Connect without the retries of a service's channel."""
    pair = (leaf.key.read_bytes(), leaf.cert.read_bytes()) if leaf else (None, None)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted.file.read_bytes(), *pair))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"host": "0.0.0.0"}, "INSECURE_PORT"),
        ({"host": "::"}, "INSECURE_PORT"),
        ({"host": "evaluation"}, "INSECURE_PORT"),
        ({"host": "0.0.0.0", "caller_keys": Path("keys")}, "INSECURE_PORT"),
        ({"tls_cert": Path("a")}, "TLS_INCOMPLETE"),
        ({"tls_ca": Path("a")}, "TLS_INCOMPLETE"),
        ({"tls_peers": "evaluation"}, "TLS_INCOMPLETE"),
        ({"public_port": 1, "caller_keys": Path("keys")}, "TLS_INCOMPLETE"),
        ({"tls_cert": Path("a"), "tls_key": Path("b")}, "CALLERS_UNKNOWN"),
        ({"tls_cert": Path("a"), "tls_key": Path("b"), "public_port": 1}, "TOKENS_INCOMPLETE"),
        ({"oidc_issuer": "https://issuer"}, "TOKENS_INCOMPLETE"),
    ],
)
async def test_settings_that_would_let_strangers_in_are_refused(
    settings: dict[str, Any], reason: str, make_service: MakeService, make_settings: MakeSettings
) -> None:
    with pytest.raises(StartupError) as caught:
        async with run_in_process(make_service(unary=echo), settings=make_settings(**settings)):
            pass
    assert caught.value.reason == reason
    assert "EVALFLEET_" in caught.value.message


async def test_plaintext_beyond_loopback_is_for_those_who_say_so(
    make_service: MakeService, make_settings: MakeSettings
) -> None:
    settings = make_settings(host="0.0.0.0", allow_insecure=True)
    async with run_in_process(make_service(unary=echo), settings=settings) as running:
        assert await call(running.channel) is grpc.StatusCode.OK


async def test_only_certificates_of_the_fleet_get_in(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf, tmp_path: Path,
    make_service: MakeService, make_settings: MakeSettings,
) -> None:  # fmt: skip
    stranger = Authority(tmp_path / "stranger")
    expired = authority.sign("expired", "evaluation.evalfleet.svc", expires_in=-datetime.timedelta(hours=1))
    attempts = {
        "the fleet's": (client_leaf, authority, grpc.StatusCode.OK),
        "none": (None, authority, grpc.StatusCode.UNAVAILABLE),
        "a stranger's": (stranger.sign("x", "evaluation.evalfleet.svc"), authority, grpc.StatusCode.UNAVAILABLE),
        "expired": (expired, authority, grpc.StatusCode.UNAVAILABLE),
        "server not trusted": (client_leaf, stranger, grpc.StatusCode.UNAVAILABLE),
    }  # fmt: skip
    settings = make_settings(**tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc")
    server = FleetServer(settings, [make_service(unary=echo)], registry=CollectorRegistry())
    server.bind()
    await server.start()
    try:
        for what, (leaf, trusted, expected) in attempts.items():
            async with dial(server.address, leaf, trusted) as channel:
                assert await call(channel) is expected, what
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await call(channel) is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.close()


async def test_a_server_with_another_name_is_not_talked_to(
    authority: Authority, client_leaf: Leaf, make_service: MakeService, make_settings: MakeSettings
) -> None:
    other = authority.sign("other", "generation.evalfleet.svc")
    settings = make_settings(**tls(other, authority), tls_peers="evaluation.evalfleet.svc")
    server = FleetServer(settings, [make_service(unary=echo)], registry=CollectorRegistry())
    server.bind()
    await server.start()
    files = CertificateFiles(client_leaf.cert, client_leaf.key, authority.file)
    try:
        async with open_channel(server.address, certificates=files) as channel:
            assert await call(channel) is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.close()


async def test_certificates_change_under_load_without_a_failed_call(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf,
    make_service: MakeService, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    settings = make_settings(
        **tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc", max_connection_age_seconds=1
    )
    served: list[bytes] = []

    async def remember(request: bytes, context: Any) -> bytes:
        served.append(context.auth_context()["x509_pem_cert"][0])
        return request

    registry = CollectorRegistry()
    server = FleetServer(settings, [make_service(unary=remember)], registry=registry)
    server.bind()
    await server.start()
    files = CertificateFiles(client_leaf.cert, client_leaf.key, authority.file)
    codes: list[grpc.StatusCode] = []
    stop = asyncio.Event()
    try:
        async with open_channel(server.address, certificates=files) as channel:

            async def load() -> None:
                while not stop.is_set():
                    codes.append(await call(channel))

            async with asyncio.TaskGroup() as callers:
                for _ in range(4):
                    callers.create_task(load())
                for rotation in range(1, 4):
                    await until(partial(_has_seen, served, rotation))
                    authority.sign("server", "127.0.0.1")
                    authority.sign("client", "evaluation.evalfleet.svc")
                await until(partial(_has_seen, served, 4))
                stop.set()
    finally:
        await server.close()
    assert set(codes) == {grpc.StatusCode.OK}


def _has_seen(served: list[bytes], count: int) -> bool:
    return len(set(served)) >= count


async def test_new_connections_see_the_new_certificate_of_a_server(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf,
    make_service: MakeService, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.0)
    registry = CollectorRegistry()
    settings = make_settings(**tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc")
    server = FleetServer(settings, [make_service(unary=echo)], registry=registry)
    server.bind()
    await server.start()
    try:
        async with dial(server.address, client_leaf, authority) as before:
            assert await call(before) is grpc.StatusCode.OK
            # A name that fits nothing: who connects now notices, who is connected does not.
            authority.sign("server", "elsewhere.example")
            async with dial(server.address, client_leaf, authority) as after:
                assert await call(after) is grpc.StatusCode.UNAVAILABLE
            assert await call(before) is grpc.StatusCode.OK
        name = "evalfleet_certificate_expiry_timestamp_seconds"
        assert f'{name}{{port="fleet"}}' in generate_latest(registry).decode()
    finally:
        await server.close()


def test_half_a_rotation_changes_nothing(
    authority: Authority, server_leaf: Leaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.0)
    files = CertificateFiles(server_leaf.cert, server_leaf.key, authority.file)
    before = files.current()
    key = server_leaf.key.read_bytes()
    authority.sign("server", "127.0.0.1")
    new_key = server_leaf.key.read_bytes()
    server_leaf.key.write_bytes(key)
    with capture_logs() as lines:
        assert files.current() is before
        server_leaf.key.unlink()
        assert files.current() is before
        server_leaf.key.write_bytes(new_key)
        assert files.current() is not before
    assert [each["event"] for each in lines] == ["certificates_not_renewed"] * 2 + ["certificates_renewed"]
    assert not any(key.decode()[40:60] in str(each) for each in lines)


def test_what_is_no_certificate_is_refused_without_showing_it(authority: Authority, server_leaf: Leaf) -> None:
    server_leaf.cert.write_text("-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n")
    with pytest.raises(StartupError, match="holds nothing usable") as caught:
        CertificateFiles(server_leaf.cert, server_leaf.key, authority.file)
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_health_port_answers_checks_and_nothing_else(
    authority: Authority, server_leaf: Leaf, make_service: MakeService, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        **tls(server_leaf, authority), tls_peers="x", health_port=free_port("127.0.0.1"), health_host="127.0.0.1"
    )
    server = FleetServer(settings, [make_service(unary=echo)], registry=CollectorRegistry())
    server.bind()
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.health_address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "test.v1.TestService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            assert await call(channel) is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            await server.health.drain()
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        await server.close()
    # The port is free again.
    second = FleetServer(settings, [make_service(unary=echo)], registry=CollectorRegistry())
    second.bind()
    await second.close()
