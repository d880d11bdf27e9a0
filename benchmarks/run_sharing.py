"""One run on one, two and three evaluation services: the same outcomes, shared among them.

The model is a fake that answers at once, so that the evaluation services are what is busy; ledger and list of runs are
in one PostgreSQL. More cores than there are services show how a run grows with them; fewer show what sharing costs.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from evalfleet.fleet import Fleet
from evalfleet.results import Run, RunState

from benchmarks.budgets.trivial_fleet import TrivialFleet
from benchmarks.chaos.outcomes import compare
from benchmarks.chaos.replicas import EvaluationReplica
from benchmarks.overhead.workload import SUITE
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from services.standalone.postgres_server import running_postgres

_REPLICAS = (1, 2, 3)
_CONCURRENCY = 192


def run_once(fleet: TrivialFleet, target: str, name: str) -> Run:
    """Run the suite with a model that no cache knows an answer of.

    Raises:
        RuntimeError: it did not succeed.
    """
    with Fleet.connect({**fleet.endpoints, "evaluation": target}) as client:
        model = client.models.add(fleet.new_checkpoint(name)).name
        started = client.runs.start(model=model, suite=SUITE, concurrency=_CONCURRENCY)
        *_, last = client.runs.watch(started.name)
    if last.run.state is not RunState.SUCCEEDED:
        raise RuntimeError(f"the run did not succeed: {last.run}")
    return last.run


def has_helped(replica: EvaluationReplica, run: Run) -> bool:
    """Whether a replica has taken shards of a run that another owns."""
    return any("helping" in line and run.name in line for line in replica.log.splitlines())


def main() -> int:
    """Read the arguments, measure, write the result; 0 if all runs found the same."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run_sharing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/run_sharing.json")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[int, list[float]] = {count: [] for count in _REPLICAS}
    helped: dict[int, list[int]] = {count: [] for count in _REPLICAS}
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="evalfleet-sharing-") as folder, running_postgres() as server:
        if server is None:
            raise SystemExit("needs PostgreSQL (Debian: apt-get install postgresql)")
        url = server.new_database()
        with TrivialFleet(Path(folder) / "fleet", url, options.items) as fleet:
            first: Run | None = None
            replicas: list[EvaluationReplica] = []
            for count in _REPLICAS:
                replicas = [*replicas, *fleet.start_replicas(1, {})]
                run_once(fleet, replicas[0].target, f"warm-up-{count}")
                for index in range(options.rounds):
                    run = run_once(fleet, replicas[0].target, f"of-{count}-{index}")
                    seconds[count].append(run.seconds or 0.0)
                    helped[count].append(sum(has_helped(each, run) for each in replicas))
                    first = first or run
                    found = compare(fleet.endpoints["aggregation"], run.name, first.name, options.items)
                    wrong += found.missing_count + found.repeated_count + found.differing_count
                    wrong += found.largest_estimate_difference != 0.0
    figures: dict[str, float] = {"items": options.items, "cores": len(os.sched_getaffinity(0))}
    for count in _REPLICAS:
        figures[f"items_per_second_{count}_replicas"] = options.items / statistics.median(seconds[count])
        figures[f"helpers_{count}_replicas"] = statistics.median(helped[count])
    figures["draws_missing_repeated_or_different"] = wrong
    for name, value in figures.items():
        print(f"{name:40} {value:.5g}")
    write_result(
        options.json,
        options.json.stem,
        figures=figures,
        versions=installed_versions("asyncpg", "grpcio"),
        notes=[
            f"medians of {options.rounds} runs; {_CONCURRENCY} items in flight at all replicas together",
            "the model is a fake that answers at once; every other service is one process, on the same cores",
        ],
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
