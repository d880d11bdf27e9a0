"""Three checkpoints' runs in a fake fleet, and the report of them."""

from collections.abc import Iterator

import pytest
from evalfleet.fleet import Fleet
from evalfleet.reports import ReportFacts, gather_report

from tests.fakes.checkpoint_runs import fill
from tests.fakes.fleet import FakeFleet


@pytest.fixture(scope="package")
def checkpoints() -> Iterator[FakeFleet]:
    """A fake fleet with the three runs; tests that change it make their own."""
    with FakeFleet() as fake:
        fill(fake)
        yield fake


@pytest.fixture(scope="package")
def facts(checkpoints: FakeFleet) -> ReportFacts:
    """The report of all three."""
    with Fleet.connect(checkpoints.targets) as fleet:
        return gather_report(fleet, ["step-100", "step-400", "step-1000"], item_count=60)


@pytest.fixture
def fake_fleet() -> Iterator[FakeFleet]:
    """A fake fleet of a test's own."""
    with FakeFleet() as fake:
        yield fake


@pytest.fixture
def fleet(fake_fleet: FakeFleet) -> Iterator[Fleet]:
    """A client of it."""
    with Fleet.connect(fake_fleet.targets) as connected:
        yield connected
