from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from evalfleet.cli.app import cli

from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    with FakeFleet() as running:
        yield running


@pytest.fixture
def invoke(fake: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run `evalfleet ARGUMENTS` against the fake fleet, in an empty folder."""
    monkeypatch.setattr("evalfleet.models._POLL_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        endpoints = [f"--endpoint={service}={target}" for service, target in fake.targets.items()]
        return CliRunner().invoke(cli, [*endpoints, *arguments])

    return run
