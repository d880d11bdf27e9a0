"""The client library against a service that asks who calls: certificates and tokens, and what replaces them."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import UnauthenticatedError, UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.results import Decision
from evalfleet.retrying import NO_RETRIES
from evalfleet.safety.v1 import safety_pb2
from evalfleet.verdict_messages import Conversation

from services.runtime.security.caller_keys import new_key
from services.runtime.server import FleetServer
from services.runtime.settings import ServiceSettings
from tests.authority import Authority
from tests.unit.runtime.security.serving import hosted, running

ASKED: Conversation = [("user", "x")]


class Served:
    """A safety service with certificates and keys, and what a client's environment says to use it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.authority = Authority(folder / "fleet")
        server = self.authority.sign("server", *names)
        self.client = self.authority.sign("client", "trainer.example")
        self.keys = dict(new_key() for _ in range(2))
        lines = [
            f'[callers.c{n}]\nroles = ["classify"]\nsha256 = ["{each}"]' for n, each in enumerate(self.keys.values())
        ]
        (folder / "keys.toml").write_text("\n".join(lines))
        self.token = folder / "token"
        self.token.write_text(next(iter(self.keys)))
        self.settings = ServiceSettings(
            drain_grace_seconds=5,
            tls_cert=server.cert,
            tls_key=server.key,
            tls_ca=self.authority.file,
            caller_keys=folder / "keys.toml",
        )
        self.certificates: list[bytes] = []
        self.service = hosted(
            Classify=grpc.unary_unary_rpc_method_handler(
                self._classify,
                safety_pb2.ClassifyRequest.FromString,
                safety_pb2.ClassifyResponse.SerializeToString,
            )
        )

    async def _classify(self, request: Any, context: Any) -> safety_pb2.ClassifyResponse:
        self.certificates.append(context.auth_context()["x509_pem_cert"][0])
        return safety_pb2.ClassifyResponse(verdict=safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE))

    def tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVALFLEET_TLS_CA", str(self.authority.file))
        monkeypatch.setenv("EVALFLEET_TLS_CERT", str(self.client.cert))
        monkeypatch.setenv("EVALFLEET_TLS_KEY", str(self.client.key))
        monkeypatch.setenv("EVALFLEET_TOKEN_FILE", str(self.token))


def connect(server: FleetServer) -> Fleet:
    return Fleet.connect({"safety": server.address}, retries=NO_RETRIES)


async def classify(fleet: Fleet) -> Decision:
    """Ask with the blocking client, beside the server's loop."""
    return (await asyncio.to_thread(fleet.safety.classify, ASKED)).decision


async def test_both_clients_show_certificates_and_tokens_and_what_replaces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.security._LOOK_SECONDS", 0.0)
    served = Served(tmp_path, "127.0.0.1")
    served.tell(monkeypatch)
    async with (
        running(served.settings, served.service) as server,
        AsyncFleet.connect({"safety": server.address}, retries=NO_RETRIES) as awaited,
    ):
        with connect(server) as fleet:
            for rotation in range(1, 4):
                assert (await awaited.safety.classify(ASKED)).decision is Decision.SAFE
                assert await classify(fleet) is Decision.SAFE
                assert len(set(served.certificates)) == rotation
                old_key = served.client.key.read_bytes()
                served.authority.sign("client", "trainer.example")
                # In the middle of a rotation, the connections of before serve.
                key = served.client.key.read_bytes()
                served.client.key.write_bytes(old_key)
                assert await classify(fleet) is Decision.SAFE
                assert len(set(served.certificates)) == rotation
                served.client.key.write_bytes(key)
            served.token.write_text(list(served.keys)[1])
            assert await classify(fleet) is Decision.SAFE
            served.token.write_text(new_key()[0])
            with pytest.raises(UnauthenticatedError) as refused:
                await classify(fleet)
            assert refused.value.reason == "KEY_UNKNOWN"


async def test_a_service_behind_another_address_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path, "safety.evalfleet.svc")
    served.tell(monkeypatch)
    async with running(served.settings, served.service) as server:
        with connect(server) as fleet, pytest.raises(UnavailableError):
            await classify(fleet)
        monkeypatch.setenv("EVALFLEET_TLS_SERVER_NAME", "safety.evalfleet.svc")
        with connect(server) as fleet:
            assert await classify(fleet) is Decision.SAFE
