"""PostgreSQL and Redis die in the middle of a run, or are lost: each item has exactly one outcome all the same."""

import signal
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from evalfleet.answers import Sampling
from evalfleet.fleet import Fleet
from evalfleet.results import RunState
from redis import Redis

from benchmarks.chaos.outcomes import rows_of
from benchmarks.chaos.replicas import EvaluationReplica, ServiceReplica
from benchmarks.chaos.suite import SUITE
from tests.fakes.redis_server import RedisServer
from tests.faults.conftest import ITEMS, SharedFleet
from tests.faults.test_replicas import StartReplicas, assert_complete, ended, wait_until

pytestmark = pytest.mark.integration


def test_killing_the_cache_and_then_the_database_loses_and_doubles_nothing(
    shared_fleet: SharedFleet,
    cache: RedisServer,
    start_replicas: StartReplicas,
    clients: Callable[[EvaluationReplica], Fleet],
) -> None:
    replicas = start_replicas(2)
    client = clients(replicas[0])
    run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=4)

    def has_rows(count: int) -> bool:
        return shared_fleet.row_count(run) >= count

    wait_until(partial(has_rows, 20))
    cache.kill()
    wait_until(partial(has_rows, 60))
    shared_fleet.server.kill()
    shared_fleet.server.start()
    assert not has_rows(ITEMS), "it was over before the database was killed"
    wait_until(partial(has_rows, 120))
    cache.start()
    finished = ended(clients(replicas[1]), run)
    assert_complete(shared_fleet, finished)
    assert finished.tasks[0].failed_count == 0
    # It came back empty, and is used again, a moment after somebody has noticed.
    with Redis.from_url(cache.url) as connection:

        def is_used() -> bool:
            client.generation.generate(run.model, uuid.uuid4().hex, Sampling(max_tokens=1))
            return int(connection.dbsize()) > 0

        wait_until(is_used)


def test_a_run_asks_again_what_a_database_has_lost_that_came_back_older(
    shared_fleet: SharedFleet, tmp_path: Path, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    """As after a failover to a standby that lagged: neither its owner nor the ledger's service is restarted."""
    # A lease that outlasts it: nobody takes the run over, and learns in that way what the ledger has.
    with shared_fleet.replica(tmp_path / "owner", {"EVALFLEET_LEASE_SECONDS": "60"}) as owner:
        client = clients(owner)
        run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=4)
        wait_until(lambda: shared_fleet.row_count(run) >= 20)
        lease = shared_fleet.lease(run)
        copied = shared_fleet.server.folder / "copied"
        shared_fleet.server.copy(copied)
        saved = shared_fleet.row_count(run)
        wait_until(lambda: shared_fleet.row_count(run) >= saved + 40)
        shared_fleet.server.go_back(copied)
        finished = ended(client, run)
        assert_complete(shared_fleet, finished)
        assert finished.tasks[0].failed_count == 0
        assert "ledger_replaced" in owner.log
        assert shared_fleet.lease(run)[1] == lease[1]


def test_a_run_goes_on_from_a_backup_that_was_made_while_it_was_in_progress(
    shared_fleet: SharedFleet, tmp_path: Path, clients: Callable[[EvaluationReplica], Fleet]
) -> None:
    server, endpoints = shared_fleet.server, shared_fleet.running.endpoints
    with shared_fleet.replica(tmp_path / "lost", {"EVALFLEET_LEASE_SECONDS": "2"}) as lost:
        client = clients(lost)
        run = client.runs.start(model=shared_fleet.new_model(client), suite=SUITE, concurrency=3)
        wait_until(lambda: shared_fleet.row_count(run) >= 30)
        backup = server.dump(shared_fleet.url)
        saved = shared_fleet.row_count(run)
        # What comes from here on is lost with the database.
        wait_until(lambda: shared_fleet.row_count(run) >= saved + 30)
        lost.send(signal.SIGKILL)

    restored = server.restore(backup)
    rescued = {"EVALFLEET_RUNS_URL": restored, "EVALFLEET_SUITE_DIRS": str(shared_fleet.suite_dir)}
    with ServiceReplica("aggregation", tmp_path / "ledger", {"EVALFLEET_LEDGER_URL": restored}) as ledger:
        assert 30 <= len(rows_of(ledger.target, run.name)) <= saved
        others = {**endpoints, "aggregation": ledger.target}
        with (
            EvaluationReplica(others, tmp_path / "evaluation", rescued) as evaluation,
            Fleet.connect({**others, "evaluation": evaluation.target}) as fleet,
        ):
            finished = ended(fleet, run)
        rows = rows_of(ledger.target, run.name)
    assert finished.state is RunState.SUCCEEDED, finished.failure
    assert sorted(row.draw_index for row in rows) == list(range(ITEMS))
    assert len({row.item for row in rows}) == ITEMS
    assert finished.tasks[0].scored_count + finished.tasks[0].failed_count == ITEMS
