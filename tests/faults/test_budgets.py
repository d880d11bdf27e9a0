"""Budgets hold on four replicas of which some are killed; `make chaos-budgets` does the same with a hundred runs."""

from pathlib import Path

import pytest

from benchmarks.budgets.__main__ import broken_promises
from benchmarks.budgets.trial import run_trial
from benchmarks.budgets.trivial_fleet import TrivialFleet
from services.standalone.postgres_server import PostgresServer
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

RUNS = 12
ITEMS = 120


def test_no_budget_is_exceeded_by_more_than_what_is_in_flight_though_replicas_die(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    with TrivialFleet(tmp_path / "fleet", url, ITEMS) as fleet:
        replicas = fleet.start_replicas(4, {"EVALFLEET_LEASE_SECONDS": "2"})
        runs, kills = run_trial(
            fleet,
            postgres,
            url,
            replicas,
            runs=RUNS,
            item_count=ITEMS,
            kill_every=4,
            seed=1,
            timeout_seconds=4 * LONGEST_WAIT_SECONDS,
        )
    assert kills >= 1
    assert broken_promises(runs) == []
    assert sum(not each.covers for each in runs) <= 2
    assert sum(each.run.stop_reason == "budget_exhausted" for each in runs) >= RUNS / 2
