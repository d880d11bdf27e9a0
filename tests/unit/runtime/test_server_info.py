"""Every service tells what it runs; digests are equal where it matters, and tell no secrets."""

from pathlib import Path
from typing import Any

import pytest
from evalfleet.server.v1 import server_pb2, server_pb2_grpc
from pydantic import Field, SecretStr

from services.runtime.server import HostedService
from services.runtime.server_info import Artifact, contract_digest, settings_digest
from services.runtime.settings import ServiceSettings
from services.runtime.testing import run_in_process

GENERATION = "evalfleet.generation.v1.GenerationService"
SCORING = "evalfleet.scoring.v1.ScoringService"


class Settings(ServiceSettings):
    ledger_url: str = "sqlite://"
    api_token: str = ""
    signing: SecretStr = SecretStr("")
    triton_key_file: Path | None = None
    folders: tuple[Path, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)


def test_settings_that_matter_change_their_digest() -> None:
    told = settings_digest(Settings())
    for other in (
        Settings(drain_grace_seconds=1.0),
        Settings(folders=(Path("/a"),)),
        Settings(weights={"a": 1.0}),
        Settings(ledger_url="postgresql://db/x"),
    ):
        assert settings_digest(other) != told


def test_secrets_and_what_differs_between_replicas_do_not() -> None:
    told = settings_digest(Settings(ledger_url="postgresql://db/x"))
    for other in (
        Settings(ledger_url="postgresql://me:hush@db/x"),
        Settings(ledger_url="postgresql://db/x", api_token="hush"),
        Settings(ledger_url="postgresql://db/x", signing=SecretStr("hush")),
        Settings(ledger_url="postgresql://db/x", triton_key_file=Path("/run/key")),
        Settings(ledger_url="postgresql://db/x", host="10.0.0.1", port=1, metrics_port=2, ready_file=Path("r")),
    ):
        assert settings_digest(other) == told


def test_the_contract_is_the_protos_with_all_that_they_import() -> None:
    digests = {contract_digest(names) for names in ([GENERATION], [SCORING], [GENERATION, SCORING])}
    assert len(digests) == 3
    assert contract_digest([SCORING, GENERATION]) == contract_digest([GENERATION, SCORING])
    assert contract_digest(["test.v1.NoSuchService"]) == contract_digest([])


async def test_a_service_tells_what_it_runs(make_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLEET_BUILD_REVISION", "abc123")
    plain = make_service()
    service = HostedService(
        plain.full_name, plain.add_to_server, artifacts=lambda: [Artifact("models/b", "2"), Artifact("models/a", "1")]
    )
    async with run_in_process(service) as running:
        stub = server_pb2_grpc.ServerServiceStub(running.channel)
        first = (await stub.GetServerInfo(server_pb2.GetServerInfoRequest())).server
        second = (await stub.GetServerInfo(server_pb2.GetServerInfoRequest())).server
    assert (first.revision, [each.name for each in first.artifacts]) == ("abc123", ["models/a", "models/b"])
    assert list(first.service_names) == [plain.full_name, "evalfleet.server.v1.ServerService"]
    assert first.version
    assert len(first.settings_digest) == len(first.contract_digest) == 64
    assert second.start_time == first.start_time
    assert second.uptime.ToMicroseconds() > first.uptime.ToMicroseconds()
