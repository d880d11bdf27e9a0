from collections.abc import Iterator

import pytest
from evalfleet.fleet import Fleet

from tests.fakes.fleet import FakeFleet


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    with FakeFleet() as running:
        yield running


@pytest.fixture
def fleet(fake: FakeFleet) -> Iterator[Fleet]:
    with Fleet.connect(fake.targets) as connected:
        yield connected
