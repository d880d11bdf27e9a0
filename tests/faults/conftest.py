"""A fleet whose evaluation and aggregation services share a PostgreSQL, and further evaluation services beside it."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.results import Run

from benchmarks.chaos.replicas import EvaluationReplica
from benchmarks.chaos.suite import write_suite
from services.standalone.postgres_server import PostgresServer
from services.standalone.testing import RunningFleet
from tests.fakes.redis_server import RedisServer, running_redis
from tests.patience import LONGEST_WAIT_SECONDS

ITEMS = 300
TIMEOUT_SECONDS = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start whole fleets more time than the others."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@dataclass
class SharedFleet:
    """A running fleet on a database.

    Attributes:
        running: its processes; its own evaluation service works on no run, so that tests know who does.
        server: of its database.
        url: of its database.
        suite_dir: of the suite of sums.
        checkpoints: folder from which it loads.
        source: the checkpoint that all models are copies of.
    """

    running: RunningFleet
    server: PostgresServer
    url: str
    suite_dir: Path
    checkpoints: Path
    source: Path

    def replica(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, is_restarted: bool = False
    ) -> EvaluationReplica:
        """Describe a further evaluation service; enter it to start it."""
        environment = {"EVALFLEET_RUNS_URL": self.url, "EVALFLEET_SUITE_DIRS": str(self.suite_dir), **(settings or {})}
        return EvaluationReplica(self.running.endpoints, folder, environment, is_restarted=is_restarted)

    def client(self, replica: EvaluationReplica) -> Fleet:
        """Connect to one evaluation service, and to the fleet for the rest."""
        return Fleet.connect({**self.running.endpoints, "evaluation": replica.target})

    def new_model(self, client: Fleet) -> str:
        """Register a checkpoint that no cache knows an answer of."""
        folder = self.checkpoints / uuid.uuid4().hex
        shutil.copytree(self.source, folder)
        template = folder / "chat_template.jinja"
        template.write_text(f"{template.read_text()}{{# {folder.name} #}}")
        return client.models.add(folder).name

    def lease(self, run: Run) -> tuple[str, int]:
        """Who works on a run, as ``host:pid:…``, empty if nobody does, and the epoch."""
        run_id = run.name.removeprefix("runs/")
        query = f"SELECT lease_owner, lease_epoch FROM evaluation.runs WHERE run_id = '{run_id}'"
        row = self.server.query(self.url, query)[0]
        return row["lease_owner"], int(row["lease_epoch"])

    def owner_among(self, run: Run, replicas: Sequence[EvaluationReplica]) -> EvaluationReplica:
        """Wait until one of the replicas works on a run, and return it."""
        give_up_at = time.monotonic() + LONGEST_WAIT_SECONDS
        while time.monotonic() < give_up_at:
            owner, _ = self.lease(run)
            for replica in replicas:
                if f":{replica.pid}:" in owner:
                    return replica
            time.sleep(0.05)
        raise AssertionError(f"nobody works on {run.name}")

    def row_count(self, run: Run) -> int:
        """How many results a run has so far."""
        named = f"SELECT run_id FROM aggregation.runs WHERE name = '{run.name}'"
        query = f"SELECT count(*) FROM aggregation.results WHERE run_id = ({named})"
        return int(self.server.query(self.url, query)[0]["count"])

    def rows(self, run: Run) -> list[aggregation_pb2.Result]:
        """Every result of a run, in the order of draws."""
        with grpc.insecure_channel(self.running.endpoints["aggregation"]) as channel:
            stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
            request = aggregation_pb2.ListResultsRequest(run=run.name, page_size=10_000)
            found = list(stub.ListResults(request, timeout=120, wait_for_ready=True).results)
        return sorted(found, key=lambda each: each.draw_index)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The cache of the shared fleet's answers; a test may kill it, and starts it again."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_fleet(
    postgres: PostgresServer, cache: RedisServer, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[SharedFleet]:
    """A fleet with engines in a process of its own; what is tested here is who asks them."""
    folder = tmp_path_factory.mktemp("shared-fleet")
    suite_dir = write_suite(folder / "suite", ITEMS)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    url = postgres.new_database()
    with RunningFleet(
        inference="local",
        checkpoint_roots=[checkpoints],
        suite_dirs=[suite_dir],
        environment={"EVALFLEET_LEDGER_URL": url, "EVALFLEET_CACHE_URL": cache.url},
    ) as running:
        yield SharedFleet(running, postgres, url, suite_dir, checkpoints, tiny_checkpoint)


@pytest.fixture
def clients(shared_fleet: SharedFleet) -> Iterator[Callable[[EvaluationReplica], Fleet]]:
    """Connect to evaluation services; closed after the test."""
    made: list[Fleet] = []

    def connect(replica: EvaluationReplica) -> Fleet:
        made.append(shared_fleet.client(replica))
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def start_replicas(shared_fleet: SharedFleet, tmp_path: Path) -> Iterator[Callable[..., list[EvaluationReplica]]]:
    """Start evaluation services that are stopped after the test."""
    with ExitStack() as stack:

        def start(count: int, **settings: str) -> list[EvaluationReplica]:
            described = [shared_fleet.replica(tmp_path / f"replica-{index}", settings) for index in range(count)]
            return [stack.enter_context(each) for each in described]

        yield start
