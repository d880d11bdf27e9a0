"""A small version of `make chaos`: processes are killed while a run goes on, and nothing of it is lost or changed."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import Run, RunState

from benchmarks.chaos.disturbance import EVALUATION, POSTGRES, WORKER, Disturber, World
from benchmarks.chaos.outcomes import Comparison, compare
from benchmarks.chaos.suite import SUITE
from tests.faults.conftest import ITEMS, SharedFleet
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

VICTIMS = (WORKER, WORKER, EVALUATION, "aggregation", "scoring", POSTGRES)
TAKEOVER_SECONDS = 15.0


def test_a_run_whose_fleet_is_killed_piece_by_piece_finds_what_an_undisturbed_one_finds(
    shared_fleet: SharedFleet, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        described = [shared_fleet.replica(tmp_path / f"replica-{index}", is_restarted=True) for index in range(3)]
        replicas = [stack.enter_context(each) for each in described]
        world = World(shared_fleet.running, replicas, shared_fleet.server, shared_fleet.url)
        targets = {**shared_fleet.running.endpoints, "evaluation": world.evaluation_target}
        client = stack.enter_context(Fleet.connect(targets))

        def start(concurrency: int) -> Run:
            model = shared_fleet.new_model(client)
            return client.runs.start(model=model, suite=SUITE, concurrency=concurrency)

        *_, calm = client.runs.watch(start(16).name)
        started = start(8)
        disturber = Disturber(world, started.name, ITEMS, VICTIMS, seed=1)
        disturber.disturb(5 * LONGEST_WAIT_SECONDS)
        run = client.runs.get(started.name)

    assert run.state is RunState.SUCCEEDED, run.failure
    assert disturber.damage.kills.total() == len(VICTIMS), disturber.damage
    assert 1 <= len(disturber.damage.takeover_seconds) <= 3
    assert max(disturber.damage.takeover_seconds) < TAKEOVER_SECONDS
    target = shared_fleet.running.endpoints["aggregation"]
    found = compare(target, run.name, calm.run.name, ITEMS)
    assert found == Comparison(0, 0, 0, 0, 0.0)
