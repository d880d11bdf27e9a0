"""One real run that all pages are about, and the ways of looking at them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot

from services.standalone.testing import RunningFleet
from tests.integration.pages.browsing import CHROMIUM, LOOKS, RUN, Look


@pytest.fixture(scope="package")
def client(fleet: RunningFleet) -> Iterator[Fleet]:
    with Fleet.connect(state_dir=fleet.state_dir) as connected:
        yield connected


@pytest.fixture(scope="package")
def snapshot(client: Fleet, tiny_policy: Path) -> RunSnapshot:
    """A run of the demo suite with a gate, which has ended."""
    model = client.models.add(str(tiny_policy))
    run = client.runs.start(model=model.name, suite="demo", item_limit=12, run_id=RUN, gates=["demo_arithmetic>=0.5"])
    for _ in client.runs.watch(run.name):
        pass
    return client.runs.snapshot(run.name)


@pytest.fixture(params=LOOKS, ids=lambda look: look.name)
def look(request: pytest.FixtureRequest) -> Look:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} (Debian: apt-get install chromium)")
    chosen: Look = request.param
    return chosen
