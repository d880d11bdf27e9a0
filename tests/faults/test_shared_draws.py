"""Runs whose items are drawn, at three evaluation services on PostgreSQL: helpers take part, and die like owners."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """A fleet whose answers take a moment, and its replicas; those that die come back.

    Attributes:
        limits: answers that come of each checkpoint, unless all do.
    """

    fleet: TrivialFleet
    server: PostgresServer
    url: str
    replicas: Sequence[EvaluationReplica]
    limits: dict[str, int] = field(default_factory=dict)

    def start(self, client: Fleet, name: str, *, budget: Budget | None = None, precision: float | None = None) -> Run:
        """Start a run of which a few items are answered, until ``helper`` and ``let_go`` let it go on."""
        model = client.models.add(self.fleet.new_checkpoint(name)).name
        self.limits[name] = FIRST_ITEMS
        self.fleet.limit(name, FIRST_ITEMS)
        # Without history the order depends on the seed alone, so that all runs draw the same.
        return client.runs.start(
            model=model, suite=SUITE, concurrency=64, budget=budget, precision=precision, use_history=False
        )

    def helper(self, name: str, run: Run, *, besides: int | None = None) -> EvaluationReplica:
        """Wait until a replica has a block, and return it: however fast the machine is, there is enough left then.

        Args:
            name: of the run's checkpoint.
            run: whose block.
            besides: the process of one that does not count, since it is dead.
        """
        named, dead = f"run_id = '{run.name.split('/')[1]}'", f"%:{besides or ''}:%"
        self._until(lambda: self._rows(f"SELECT helper FROM evaluation.run_helpers WHERE {named}", "helper", dead))
        found: list[EvaluationReplica] = []

        def is_found() -> bool:
            for row in self._rows(f"{BLOCKS} AND {named}", "lease_owner", dead):
                if (replica := self.named(row["lease_owner"])) is not None:
                    found.append(replica)
                    return True
            # Places come to be free for a block only as items end.
            self.limits[name] += FURTHER_ITEMS
            self.fleet.limit(name, self.limits[name])
            return False

        self._until(is_found)
        return found[0]

    def let_go(self, name: str) -> None:
        """Answer the rest."""
        self.fleet.limit(name, None)

    def _until(self, is_so: Callable[[], object]) -> None:
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while not is_so():
            assert time.monotonic() < give_up_at
            time.sleep(0.1)

    def _rows(self, query: str, column: str, dead: str) -> Sequence[Mapping[str, Any]]:
        return self.server.query(self.url, f"{query} AND {column} NOT LIKE '{dead}'")

    def client(self, replica: EvaluationReplica) -> Fleet:
        return Fleet.connect({**self.fleet.endpoints, "evaluation": replica.target})

    def lease(self, run: Run) -> tuple[str, int]:
        query = f"SELECT lease_owner, lease_epoch FROM evaluation.runs WHERE run_id = '{run.name.split('/')[1]}'"
        (row,) = self.server.query(self.url, query)
        return row["lease_owner"] or "", int(row["lease_epoch"])

    def named(self, lease_owner: str) -> EvaluationReplica | None:
        return next((each for each in self.replicas if f":{each.pid}:" in lease_owner), None)

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
        run = drawn_runs.start(client, "calm", budget=BUDGET)
        drawn_runs.helper("calm", run)
        drawn_runs.let_go("calm")
        *_, last = client.runs.watch(run.name)
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
    assert drawn_runs.shared_count(calm) >= 32
    rows = rows_of(drawn_runs.fleet.endpoints["aggregation"], calm.name)
    assert calm.spend is not None
    tokens = sum(row.usage.computed_prompt_tokens + row.usage.computed_completion_tokens for row in rows)
    assert calm.spend.tokens == pytest.approx(tokens)


def test_helpers_ask_a_part_of_a_run_that_stops_at_a_precision(drawn_runs: DrawnRuns) -> None:
    with drawn_runs.client(drawn_runs.replicas[0]) as client:
        run = drawn_runs.start(client, "precise", precision=0.02)
        drawn_runs.helper("precise", run)
        drawn_runs.let_go("precise")
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
    first = drawn_runs.helper("disturbed", run)
    dead = first.pid
    first.send(signal.SIGKILL)
    second = drawn_runs.helper("disturbed", run, besides=dead)
    owner, epoch = drawn_runs.lease(run)
    replica = drawn_runs.named(owner)
    assert replica is not None
    assert second is not replica
    replica.send(signal.SIGKILL)
    killed_at = time.monotonic()
    drawn_runs.let_go("disturbed")
    while drawn_runs.lease(run)[1] == epoch:
        assert time.monotonic() < killed_at + TAKEOVER_SECONDS
        time.sleep(0.05)
    other = next(each for each in drawn_runs.replicas if each is not replica)
    other.wait_until_serving()
    with drawn_runs.client(other) as client:
        *_, last = client.runs.watch(run.name)
    assert_as(drawn_runs, last.run, calm)
