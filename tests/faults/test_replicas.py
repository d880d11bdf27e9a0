"""Several evaluation services on one PostgreSQL: whatever happens to them, each item has exactly one outcome."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import grpc
import pytest
from evalfleet.fleet import Fleet
from evalfleet.goals import Answer
from evalfleet.results import Run, RunState

from benchmarks.chaos.outcomes import Comparison, compare
from benchmarks.chaos.replicas import EvaluationReplica
from benchmarks.chaos.suite import SUITE
from services.evaluation.keda import externalscaler_pb2, externalscaler_pb2_grpc
from tests.faults.conftest import ITEMS, SharedFleet
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

TAKEOVER_SECONDS = 15.0
StartReplicas = Callable[..., list[EvaluationReplica]]


def wait_until(is_so: Callable[[], bool], seconds: float = LONGEST_WAIT_SECONDS) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def ended(client: Fleet, run: Run) -> Run:
    *_, last = client.runs.watch(run.name)
    return last.run


def wanted_by_runs(replica: EvaluationReplica) -> float | None:
    """Items that a replica tells KEDA of; None if it says that models may sleep."""
    reference = externalscaler_pb2.ScaledObjectRef(scalerMetadata={"deployment": "generation", "workPerReplica": "1"})
    question = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=reference, metricName="evalfleet-generation-work")
    with grpc.insecure_channel(replica.target) as channel:
        stub = externalscaler_pb2_grpc.ExternalScalerStub(channel)
        [value] = stub.GetMetrics(question, timeout=LONGEST_WAIT_SECONDS).metricValues
        is_active = stub.IsActive(reference, timeout=LONGEST_WAIT_SECONDS).result
    return value.metricValueFloat if is_active else None


def assert_complete(shared_fleet: SharedFleet, run: Run) -> None:
    """Every item has one outcome, and the run's numbers say the same."""
    rows = shared_fleet.rows(run)
    assert [row.draw_index for row in rows] == list(range(ITEMS))
    assert len({row.item for row in rows}) == ITEMS
    assert run.state is RunState.SUCCEEDED, run.failure
    assert (run.tasks[0].item_count, run.tasks[0].done_count) == (ITEMS, ITEMS)


def test_another_replica_takes_over_within_seconds_when_the_owner_is_killed(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    replicas = start_replicas(3)
    client = clients(replicas[0])
    run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=3)
    owner = shared_fleet.owner_among(run, replicas)
    wait_until(lambda: shared_fleet.row_count(run) >= 20)
    _, epoch = shared_fleet.lease(run)
    owner.send(signal.SIGKILL)
    killed_at = time.monotonic()
    assert shared_fleet.row_count(run) < ITEMS, "it was over before its owner was killed"
    others = [each for each in replicas if each is not owner]
    # Its models stay awake though nobody works on it now.
    assert wanted_by_runs(others[0]) == wanted_by_runs(others[1]) == 3
    wait_until(lambda: shared_fleet.lease(run)[1] > epoch)
    assert time.monotonic() - killed_at < TAKEOVER_SECONDS
    assert shared_fleet.owner_among(run, others)
    assert_complete(shared_fleet, ended(clients(others[0]), run))
    wait_until(lambda: wanted_by_runs(others[1]) is None)


def test_an_owner_that_was_stopped_and_wakes_after_its_successor_has_finished_changes_nothing(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    replicas = start_replicas(3)
    client = clients(replicas[0])
    run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=8)
    owner = shared_fleet.owner_among(run, replicas)
    wait_until(lambda: shared_fleet.row_count(run) >= 20)
    owner.send(signal.SIGSTOP)
    other = clients(next(each for each in replicas if each is not owner))
    finished = ended(other, run)
    assert_complete(shared_fleet, finished)
    before = shared_fleet.rows(run), stored(shared_fleet, run), other.runs.snapshot(run.name).estimates

    owner.send(signal.SIGCONT)
    # It has noticed, and put the run down, when it says so.
    wait_until(lambda: "run_left" in owner.log)
    awake = clients(owner)
    assert awake.runs.get(run.name) == finished
    assert (shared_fleet.rows(run), stored(shared_fleet, run), awake.runs.snapshot(run.name).estimates) == before
    # And it is as good as new.
    again = awake.runs.start(model=finished.model, suite=SUITE, item_limit=5)
    assert ended(awake, again).state is RunState.SUCCEEDED


def test_a_run_that_another_replica_takes_over_decides_what_an_undisturbed_one_decides(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    replicas = start_replicas(2)
    client = clients(replicas[0])

    def start(concurrency: int) -> Run:
        # Without history the order depends on the seed alone, so that both runs draw the same.
        model = shared_fleet.new_model(client)
        return client.runs.start(model=model, suite=SUITE, precision=0.03, concurrency=concurrency, use_history=False)

    calm = ended(client, start(16))
    run = start(2)
    owner = shared_fleet.owner_among(run, replicas)
    wait_until(lambda: shared_fleet.row_count(run) >= 10)
    owner.send(signal.SIGKILL)
    (other,) = (each for each in replicas if each is not owner)
    *_, last = clients(other).runs.watch(run.name)
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    assert shared_fleet.owner_among(run, [other])
    (expected,), (found,) = calm.decisions, last.run.decisions
    assert expected.questions[0].answer is Answer.REACHED
    assert expected.questions[0].decided_after is not None
    assert found.questions == expected.questions
    rows = shared_fleet.rows(run)
    assert len(rows) == len({row.draw_index for row in rows}) == len({row.item for row in rows}) < ITEMS


def test_a_run_that_loses_its_owner_and_services_beside_it_finds_what_an_undisturbed_one_finds(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    replicas = start_replicas(3)
    client = clients(replicas[0])
    calm = ended(client, client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=24))
    run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=6)
    owner = shared_fleet.owner_among(run, replicas)
    wait_until(lambda: shared_fleet.row_count(run) >= 20)
    owner.send(signal.SIGKILL)
    assert shared_fleet.row_count(run) < ITEMS, "it was over before its owner was killed"

    def has_rows(count: int) -> bool:
        return shared_fleet.row_count(run) >= count

    for count, service in ((60, "scoring"), (120, "aggregation"), (180, "generation")):
        wait_until(partial(has_rows, count))
        os.kill(shared_fleet.running.processes[service], signal.SIGKILL)
    other = clients(next(each for each in replicas if each is not owner))
    wait_until(lambda: other.runs.get(run.name).state is not RunState.RUNNING, 2 * LONGEST_WAIT_SECONDS)
    assert_complete(shared_fleet, other.runs.get(run.name))
    found = compare(shared_fleet.running.endpoints["aggregation"], run.name, calm.name, ITEMS)
    assert found == Comparison(0, 0, found.failed_count, 0, 0.0)


def stored(shared_fleet: SharedFleet, run: Run) -> dict[str, str]:
    """The run's row, who may work on it included."""
    query = f"SELECT * FROM evaluation.runs WHERE run_id = '{run.name.removeprefix('runs/')}'"
    return shared_fleet.server.query(shared_fleet.url, query)[0]


def test_a_run_is_watched_and_cancelled_through_a_replica_that_does_not_work_on_it(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    replicas = start_replicas(2)
    client = clients(replicas[0])
    run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=2)
    owner = shared_fleet.owner_among(run, replicas)
    other = clients(next(each for each in replicas if each is not owner))
    for snapshot in other.runs.watch(run.name):
        if snapshot.run.tasks[0].done_count >= 5:
            break
    assert other.runs.cancel(run.name).state is RunState.CANCELLED
    found = shared_fleet.row_count(run)
    assert found < ITEMS
    wait_until(lambda: "lease_lost" in owner.log or "run_left" in owner.log)
    assert shared_fleet.row_count(run) == found
    assert clients(owner).runs.get(run.name).state is RunState.CANCELLED
    *_, last = clients(owner).runs.watch(run.name)
    assert last.run.state is RunState.CANCELLED


def test_waiting_runs_start_by_priority_and_their_callers_take_turns(
    shared_fleet: SharedFleet, start_replicas: StartReplicas, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    (replica,) = start_replicas(1, EVALFLEET_PARALLEL_RUNS="1")
    client = clients(replica)
    model = shared_fleet.new_model(client)
    first = client.runs.start(model=model, suite=SUITE, concurrency=1)
    shared_fleet.owner_among(first, [replica])

    def waiting(caller: str, priority: int = 0) -> Run:
        targets = {**shared_fleet.running.endpoints, "evaluation": replica.target}
        with Fleet.connect(targets, caller=caller) as connected:
            return connected.runs.start(model=model, suite=SUITE, item_limit=1, priority=priority)

    runs = [waiting("team/a"), waiting("team/a"), waiting("team/b"), waiting("team/c", priority=1)]
    client.runs.cancel(first.name)
    started = sorted(runs, key=lambda run: ended(client, run).start_time or 0)
    assert [runs.index(run) for run in started] == [3, 0, 2, 1]
