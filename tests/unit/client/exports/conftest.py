"""A run of two tasks in a fake fleet, as it is exported."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from evalfleet.exports import ExportedRun, Publisher
from evalfleet.exports.sources import read_run
from evalfleet.fleet import Fleet
from evalfleet.results import Interval

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


@pytest.fixture
def stopped(exported: ExportedRun) -> ExportedRun:
    """The same, but the whole of gsm8k is told from its drawn items to score 0.7, from 0.6 to 0.8."""
    estimates = tuple(
        replace(each, task_value=0.7, task_interval=Interval(0.6, 0.8, 0.95, "anytime-valid"))
        if each.metric == "exact_match"
        else each
        for each in exported.snapshot.estimates
    )
    return replace(exported, snapshot=replace(exported.snapshot, estimates=estimates))
