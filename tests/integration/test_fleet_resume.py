"""A run outlives the death of services: afterwards every item has exactly one outcome."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration


@pytest.fixture
def unasked_policy(tiny_policy: Path, checkpoint_folder: Path) -> Path:
    """The tiny policy with a digest of its own: known answers would end a run before anything can be killed."""
    folder = checkpoint_folder / uuid.uuid4().hex
    shutil.copytree(tiny_policy, folder)
    template = folder / "chat_template.jinja"
    template.write_text(f"{template.read_text()}{{# {folder.name} #}}")
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["evaluation", "aggregation", "scoring"])
def test_every_item_has_one_outcome_although_a_service_is_killed_midway(
    fleet: RunningFleet, unasked_policy: Path, victim: str
) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(unasked_policy)
        run = client.runs.start(model=model.name, suite="demo_arithmetic", concurrency=2)
        killed = None
        for snapshot in client.runs.watch(run.name):
            progress = snapshot.run.tasks[0]
            if killed is None and progress.done_count >= 10:
                killed = fleet.processes[victim]
                os.kill(killed, signal.SIGKILL)
        last = snapshot

    assert killed is not None, "the run was over before anything could be killed"
    while fleet.processes[victim] == killed:  # the run may end before the supervisor has noticed
        time.sleep(0.1)
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    progress = last.run.tasks[0]
    assert progress.item_count is not None
    assert progress.item_count >= 100
    assert progress.scored_count == progress.item_count
    assert progress.failed_count == 0

    with grpc.insecure_channel(fleet.endpoints["aggregation"]) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        request = aggregation_pb2.ListResultsRequest(run=run.name, page_size=10_000)
        rows = stub.ListResults(request, timeout=120, wait_for_ready=True).results
    keys = [(row.task, row.item, row.sample) for row in rows]
    assert len(keys) == len(set(keys)) == progress.item_count
    assert sorted(row.draw_index for row in rows) == list(range(progress.item_count))


@pytest.mark.timeout(600)
def test_a_run_goes_on_while_triton_is_restarted(fleet: RunningFleet, unasked_policy: Path) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(unasked_policy)
        run = client.runs.start(model=model.name, suite="demo_mcq", concurrency=2)
        killed = False
        for snapshot in client.runs.watch(run.name):
            if not killed and snapshot.run.tasks[0].done_count >= 5:
                os.kill(fleet.processes["inference"], signal.SIGKILL)
                killed = True
    assert killed
    assert snapshot.run.state is RunState.SUCCEEDED, snapshot.run.failure
    assert snapshot.run.tasks[0].failed_count == 0, snapshot.totals
