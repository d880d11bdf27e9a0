"""Runs whose items are drawn, at three evaluation services on PostgreSQL: helpers take part, and die like owners."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from evalfleet.fleet import Fleet
from evalfleet.goals import Budget, StopReason
from evalfleet.results import Run, RunState

from benchmarks.budgets.trivial_fleet import TrivialFleet
from benchmarks.chaos.outcomes import rows_of
from benchmarks.chaos.replicas import EvaluationReplica, shared_counts
from benchmarks.overhead.workload import SUITE
from services.standalone.postgres_server import PostgresServer
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

ITEMS = 2000
BUDGET = Budget(items=1500)
TAKEOVER_SECONDS = 15.0
FIRST_ITEMS = 64
FURTHER_ITEMS = 8
BLOCKS = "SELECT lease_owner FROM evaluation.run_shards WHERE positions IS NOT NULL AND lease_owner IS NOT NULL"


@dataclass
class DrawnRuns:
    """A fleet whose answers take a moment, and its replicas; those that die come back."""

    fleet: TrivialFleet
    server: PostgresServer
    url: str
    replicas: Sequence[EvaluationReplica]

    def start(self, client: Fleet, name: str, *, budget: Budget | None = None, precision: float | None = None) -> Run:
        """Start a run, and wait until a helper has a block of it: however fast the machine is, there is enough left."""
        model = client.models.add(self.fleet.new_checkpoint(name)).name
        self.fleet.limit(name, FIRST_ITEMS)
        # Without history the order depends on the seed alone, so that all runs draw the same.
        run = client.runs.start(
            model=model, suite=SUITE, concurrency=64, budget=budget, precision=precision, use_history=False
        )
        run_id = run.name.split("/")[1]
        self._until_any(f"SELECT helper FROM evaluation.run_helpers WHERE run_id = '{run_id}'")
        limit = FIRST_ITEMS

        def allow_more() -> None:
            # Places come to be free for a block only as items end.
            nonlocal limit
            limit += FURTHER_ITEMS
            self.fleet.limit(name, limit)

        self._until_any(f"{BLOCKS} AND run_id = '{run_id}'", allow_more)
        self.fleet.limit(name, None)
        return run

    def _until_any(self, query: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while not self.server.query(self.url, query):
            assert time.monotonic() < give_up_at, query
            meanwhile()
            time.sleep(0.1)

    def client(self, replica: EvaluationReplica) -> Fleet:
        return Fleet.connect({**self.fleet.endpoints, "evaluation": replica.target})

    def lease(self, run: Run) -> tuple[str, int]:
        query = f"SELECT lease_owner, lease_epoch FROM evaluation.runs WHERE run_id = '{run.name.split('/')[1]}'"
        (row,) = self.server.query(self.url, query)
        return row["lease_owner"] or "", int(row["lease_epoch"])

    def named(self, lease_owner: str) -> EvaluationReplica | None:
        return next((each for each in self.replicas if f":{each.pid}:" in lease_owner), None)

    def helper(self) -> EvaluationReplica:
        """Wait until a replica has a block, and return it."""
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while time.monotonic() < give_up_at:
            for row in self.server.query(self.url, BLOCKS):
                if (found := self.named(row["lease_owner"])) is not None:
                    return found
            time.sleep(0.02)
        raise AssertionError("nobody has taken a block")

    def shared_count(self, run: Run) -> int:
        """Items of a run that helpers have asked, as its owner has logged it."""
        return shared_counts(self.replicas).get(run.name, 0)


@pytest.fixture(scope="module")
def drawn_runs(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrawnRuns]:
    url = postgres.new_database()
    folder = tmp_path_factory.mktemp("drawn") / "fleet"
    with TrivialFleet(folder, url, ITEMS, answer_seconds=0.02) as fleet:
        yield DrawnRuns(fleet, postgres, url, fleet.start_replicas(3, {"EVALFLEET_LEASE_SECONDS": "2"}))


@pytest.fixture(scope="module")
def calm(drawn_runs: DrawnRuns) -> Run:
    """A budgeted run that is left alone."""
    with drawn_runs.client(drawn_runs.replicas[0]) as client:
        *_, last = client.runs.watch(drawn_runs.start(client, "calm", budget=BUDGET).name)
    return last.run


def assert_as(drawn_runs: DrawnRuns, run: Run, calm: Run) -> None:
    """Every draw has one outcome, and the run has found and spent what the other one did."""
    assert run.state is RunState.SUCCEEDED, run.failure
    assert run.stop_reason is StopReason.BUDGET_EXHAUSTED
    rows = rows_of(drawn_runs.fleet.endpoints["aggregation"], run.name)
    assert sorted(row.draw_index for row in rows) == list(range(1500))
    assert run.tasks[0].done_count == 1500
    (found,), (expected,) = run.decisions, calm.decisions
    assert (found.value, found.lower, found.upper) == (expected.value, expected.lower, expected.upper)
    assert run.spend is not None
    assert run.spend.items == 1500


def test_helpers_ask_a_part_of_a_budgeted_run(drawn_runs: DrawnRuns, calm: Run) -> None:
    assert_as(drawn_runs, calm, calm)
    assert drawn_runs.shared_count(calm) >= 64
    rows = rows_of(drawn_runs.fleet.endpoints["aggregation"], calm.name)
    assert calm.spend is not None
    tokens = sum(row.usage.computed_prompt_tokens + row.usage.computed_completion_tokens for row in rows)
    assert calm.spend.tokens == pytest.approx(tokens)


def test_helpers_ask_a_part_of_a_run_that_stops_at_a_precision(drawn_runs: DrawnRuns) -> None:
    with drawn_runs.client(drawn_runs.replicas[0]) as client:
        run = drawn_runs.start(client, "precise", precision=0.02)
        drawn_runs.helper()
        *_, last = client.runs.watch(run.name)
    (decision,) = last.run.decisions
    assert last.run.stop_reason is StopReason.DECIDED
    rows = rows_of(drawn_runs.fleet.endpoints["aggregation"], run.name)
    assert len(rows) == len({row.draw_index for row in rows}) == last.run.tasks[0].done_count < ITEMS
    assert decision.questions[0].decided_after is not None
    assert decision.questions[0].decided_after <= len(rows)
    assert drawn_runs.shared_count(run) >= 32


def test_a_run_that_loses_a_helper_and_then_its_owner_finds_what_an_undisturbed_one_finds(
    drawn_runs: DrawnRuns, calm: Run
) -> None:
    with drawn_runs.client(drawn_runs.replicas[0]) as client:
        run = drawn_runs.start(client, "disturbed", budget=BUDGET)
    drawn_runs.helper().send(signal.SIGKILL)
    owner, epoch = drawn_runs.lease(run)
    drawn_runs.helper()
    replica = drawn_runs.named(owner)
    assert replica is not None
    replica.send(signal.SIGKILL)
    killed_at = time.monotonic()
    while drawn_runs.lease(run)[1] == epoch:
        assert time.monotonic() < killed_at + TAKEOVER_SECONDS
        time.sleep(0.05)
    other = next(each for each in drawn_runs.replicas if each is not replica)
    other.wait_until_serving()
    with drawn_runs.client(other) as client:
        *_, last = client.runs.watch(run.name)
    assert_as(drawn_runs, last.run, calm)
