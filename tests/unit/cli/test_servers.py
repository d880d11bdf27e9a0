"""`evalfleet servers` shows what runs where."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from evalfleet.aio import AsyncFleet
from evalfleet.cli.app import cli
from evalfleet.endpoints import SERVICES
from evalfleet.fleet import Fleet

from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def test_every_service_tells_its_version_contract_and_settings(invoke: Invoke) -> None:
    result = invoke("servers")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout.count("abcdef012345") == len(SERVICES)
    assert "1 day, 2:03:04" in result.stdout
    assert "models/step-100" not in result.stdout


def test_one_service_tells_its_models_too(invoke: Invoke) -> None:
    result = invoke("servers", "generation")
    assert f"models/step-100: {'d' * 64}" in result.stdout
    assert "is not one of" in invoke("servers", "gneration").stderr


def test_one_that_is_away_is_a_remark_and_a_fleet_that_is_away_a_failure(
    fake: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.connections.CALL_TIMEOUT_SECONDS", 0.2)
    endpoints = [f"--endpoint={service}={fake.target}" for service in SERVICES if service != "safety"]
    some = CliRunner().invoke(cli, [*endpoints, "--state-dir=/nonexistent", "servers"])
    assert some.exit_code == 0, some.output
    assert some.stderr.startswith("safety: ")
    none = CliRunner().invoke(cli, ["--state-dir=/nonexistent", "servers"])
    assert none.exit_code == 1


async def test_both_clients_read_the_same(fake: FakeFleet) -> None:
    with Fleet.connect(fake.targets) as fleet:
        told = fleet.server_info("generation")
    async with AsyncFleet.connect(fake.targets) as fleet_of_a_loop:
        assert await fleet_of_a_loop.server_info("generation") == told
    assert (told.instance, told.uptime_seconds, told.start_time.year) == ("pod-1:7", 93_784, 2023)
