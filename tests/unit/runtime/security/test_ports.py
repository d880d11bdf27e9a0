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
from services.runtime.security.caller_keys import new_key
from services.runtime.security.certificates import CertificateFiles
from services.runtime.testing import as_bytes
from tests.authority import Authority, Leaf
from tests.patience import until
from tests.unit.runtime.conftest import MakeSettings
from tests.unit.runtime.security.serving import SAFETY, bearer, hosted, running

METHOD = f"/{SAFETY}/Classify"


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
        ({"public_port": 1, "public_tls_cert": Path("a"), "public_tls_key": Path("b")}, "TOKENS_INCOMPLETE"),
        ({"oidc_issuer": "https://issuer"}, "TOKENS_INCOMPLETE"),
        ({"caller_quotas": Path("quotas")}, "TOKENS_INCOMPLETE"),
    ],
)
async def test_settings_that_would_let_strangers_in_are_refused(
    settings: dict[str, Any], reason: str, make_settings: MakeSettings
) -> None:
    with pytest.raises(StartupError) as caught:
        async with running(make_settings(**settings)):
            pass
    assert caught.value.reason == reason
    assert "EVALFLEET_" in caught.value.message


async def test_plaintext_beyond_loopback_is_for_those_who_say_so(make_settings: MakeSettings) -> None:
    settings = make_settings(host="0.0.0.0", allow_insecure=True)
    async with running(settings) as server:
        here = f"127.0.0.1:{server.address.rpartition(':')[2]}"
        async with grpc.aio.insecure_channel(here) as channel:
            assert await call(channel) is grpc.StatusCode.OK


async def test_only_certificates_of_the_fleet_get_in(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf, tmp_path: Path,
    make_settings: MakeSettings,
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
    async with running(settings) as server:
        for what, (leaf, trusted, expected) in attempts.items():
            async with dial(server.address, leaf, trusted) as channel:
                assert await call(channel) is expected, what
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await call(channel) is grpc.StatusCode.UNAVAILABLE


async def test_a_server_with_another_name_is_not_talked_to(
    authority: Authority, client_leaf: Leaf, make_settings: MakeSettings
) -> None:
    other = authority.sign("other", "generation.evalfleet.svc")
    settings = make_settings(**tls(other, authority), tls_peers="evaluation.evalfleet.svc")
    files = CertificateFiles(client_leaf.cert, client_leaf.key, authority.file)
    async with running(settings) as server, open_channel(server.address, certificates=files) as channel:
        assert await call(channel) is grpc.StatusCode.UNAVAILABLE


async def test_channels_that_look_after_health_do_so_by_their_certificate(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf, make_settings: MakeSettings
) -> None:
    files = CertificateFiles(client_leaf.cert, client_leaf.key, authority.file)
    settings = make_settings(**tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc")
    async with (
        running(settings) as server,
        open_channel(server.address, health_service=SAFETY, certificates=files) as channel,
    ):
        assert await call(channel) is grpc.StatusCode.OK


async def test_certificates_change_under_load_without_a_failed_call(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf,
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    settings = make_settings(
        **tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc", max_connection_age_seconds=1
    )
    served: list[bytes] = []

    async def remember(request: bytes, context: Any) -> bytes:
        served.append(context.auth_context()["x509_pem_cert"][0])
        return request

    service = hosted(Classify=grpc.unary_unary_rpc_method_handler(remember))
    files = CertificateFiles(client_leaf.cert, client_leaf.key, authority.file)
    codes: list[grpc.StatusCode] = []
    stop = asyncio.Event()

    async def load(channel: grpc.aio.Channel) -> None:
        while not stop.is_set():
            codes.append(await call(channel))

    async with (
        running(settings, service) as server,
        open_channel(server.address, certificates=files) as channel,
        asyncio.TaskGroup() as callers,
    ):
        for _ in range(4):
            callers.create_task(load(channel))
        for rotation in range(1, 4):
            await until(partial(_has_seen, served, rotation))
            authority.sign("server", "127.0.0.1")
            authority.sign("client", "evaluation.evalfleet.svc")
        await until(partial(_has_seen, served, 4))
        stop.set()
    assert set(codes) == {grpc.StatusCode.OK}


def _has_seen(served: list[bytes], count: int) -> bool:
    return len(set(served)) >= count


async def test_new_connections_see_the_new_certificate_of_a_server(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf,
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.0)
    registry = CollectorRegistry()
    settings = make_settings(**tls(server_leaf, authority), tls_peers="evaluation.evalfleet.svc")
    async with running(settings, registry=registry) as server:
        async with dial(server.address, client_leaf, authority) as before:
            assert await call(before) is grpc.StatusCode.OK
            # A name that fits nothing: who connects now notices, who is connected does not.
            authority.sign("server", "elsewhere.example")
            async with dial(server.address, client_leaf, authority) as after:
                assert await call(after) is grpc.StatusCode.UNAVAILABLE
            assert await call(before) is grpc.StatusCode.OK
        name = "evalfleet_certificate_expiry_timestamp_seconds"
        assert f'{name}{{port="fleet"}}' in generate_latest(registry).decode()


async def test_callers_without_certificates_have_a_port_of_their_own(
    authority: Authority, server_leaf: Leaf, make_settings: MakeSettings, tmp_path: Path
) -> None:
    web = Authority(tmp_path / "web")
    public = web.sign("public", "127.0.0.1")
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(f'[callers.team-a]\nroles = ["classify"]\nsha256 = ["{digest}"]\n')
    settings = make_settings(
        **tls(server_leaf, authority),
        public_port=free_port("127.0.0.1"),
        public_tls_cert=public.cert,
        public_tls_key=public.key,
        caller_keys=tmp_path / "keys.toml",
    )
    async with running(settings) as server, dial(server.public_address, None, web) as channel:
        assert await call(channel) is grpc.StatusCode.UNAUTHENTICATED
        classify = channel.unary_unary(METHOD, as_bytes, as_bytes)
        assert await classify(b"x", timeout=20, metadata=bearer(key)) == b"x"
        # The fleet's port asks for a certificate all the same.
        async with dial(server.address, None, authority) as other:
            assert await call(other) is grpc.StatusCode.UNAVAILABLE


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
    authority: Authority, server_leaf: Leaf, make_settings: MakeSettings
) -> None:
    settings = make_settings(
        **tls(server_leaf, authority), tls_peers="x", health_port=free_port("127.0.0.1"), health_host="127.0.0.1"
    )
    async with running(settings) as server, grpc.aio.insecure_channel(server.health_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SAFETY):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert await call(channel) is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.health.drain()
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    async with running(settings):
        """The port is free again."""
