"""A run of two tasks in a fake fleet, as it is exported."""

from collections.abc import Iterator

import pytest
from evalfleet.exports import ExportedRun, Publisher
from evalfleet.exports.sources import read_run
from evalfleet.fleet import Fleet

from tests.fakes.checkpoint_runs import fill
from tests.fakes.fleet import FakeFleet


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    with FakeFleet() as running:
        fill(running)
        yield running


@pytest.fixture
def fleet(fake: FakeFleet) -> Iterator[Fleet]:
    with Fleet.connect(fake.targets) as connected:
        yield connected


@pytest.fixture
def exported(fleet: Fleet) -> ExportedRun:
    """The newest checkpoint's run: 122 + 36 items, two of which failed, and one that lacks a metric."""
    return read_run(fleet, "step-1000", Publisher(developer="my-team", organization="My Team"))
