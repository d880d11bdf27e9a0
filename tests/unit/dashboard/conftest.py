"""The dashboard over a fake fleet with three checkpoints' runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from starlette.testclient import TestClient

from services.dashboard.application import make_application
from tests.fakes.checkpoint_runs import fill
from tests.fakes.fleet import FakeFleet

TOKEN = "a-token-for-these-tests"


@pytest.fixture(scope="package")
def checkpoints() -> Iterator[FakeFleet]:
    """The fake fleet."""
    with FakeFleet() as fake:
        fill(fake)
        yield fake


@pytest.fixture(scope="package")
def fleet(checkpoints: FakeFleet) -> Iterator[Fleet]:
    """A client of it."""
    with Fleet.connect(checkpoints.targets) as connected:
        yield connected


@pytest.fixture
def stranger(fleet: Fleet, tmp_path: Path) -> Iterator[TestClient]:
    """A browser without a token."""
    application = make_application(fleet, TOKEN, records=tmp_path)
    with TestClient(application, base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


@pytest.fixture
def browser(stranger: TestClient) -> TestClient:
    """A browser that has signed in."""
    assert stranger.post("/sign-in", data={"token": TOKEN}).status_code == 303
    return stranger
