"""A budget is a budget: random runs on four evaluation services, some of which are killed.

Each run has random limits (items, tokens, engine seconds, money) and a random number of items in flight. The model is
a fake that answers at once and says that each prompt costs something else, one in a dozen several times the mean. A
run keeps its promise if its own account exceeds no limit by more than what one replica may have in flight, and the
inference server's account none by more than that for each replica that had the run, and a block for each helper that
was lost: what a killed replica has in flight is spent, and nobody is told. Limited items are never exceeded at all.
Every replica has room for more runs than there are, so that those with many items in flight are shared.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.budgets.trial import BudgetedRun, run_trial
from benchmarks.budgets.trivial_fleet import TrivialFleet
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from services.standalone.postgres_server import running_postgres

_MISSES_ALLOWED = 0.05
"""Intervals hold with 95 % confidence, however the budget ends a run."""


def broken_promises(runs: Sequence[BudgetedRun]) -> Sequence[str]:
    """Return a line for each promise that a run has not kept."""
    lines = [f"{each.run.name}: {each.problem}" for each in runs if each.problem]
    for each in runs:
        for name in each.limits:
            # Half a unit of an account that is kept in floating point, where nothing may be exceeded.
            own, served = each.overshoot(name), each.served_overshoot(name)
            if own > (1e-9 if name == "items" else 1.0) or (served is not None and served > 1.0):
                lines.append(f"{each.run.name}: {name} of {each.limits[name]:g}: {each.run.spend}, {each.served}")
    return lines


def figures_of(runs: Sequence[BudgetedRun], kills: int) -> dict[str, float]:
    """Return the figures of a trial."""
    own = {
        name: max((each.overshoot(name) for each in runs if name in each.limits), default=0.0)
        for name in ("items", "tokens", "engine_seconds", "cost_micro_usd")
    }
    served = [over for each in runs for name in each.limits if (over := each.served_overshoot(name)) is not None]
    return {
        "runs": len(runs),
        "kills": kills,
        "takeovers": sum(each.taken_count - 1 for each in runs),
        "failed_runs": sum(bool(each.problem) for each in runs),
        "broken_promises": len(broken_promises(runs)),
        "exhausted_runs": sum(each.run.stop_reason == "budget_exhausted" for each in runs),
        **{f"worst_overshoot_over_in_flight_{name}": over for name, over in own.items()},
        "worst_served_overshoot_over_in_flight": max(served, default=0.0),
        "interval_misses": sum(not each.covers for each in runs if not each.problem),
        "shared_runs": sum(each.shared_count > 0 for each in runs),
        "items_asked_by_helpers": sum(each.shared_count for each in runs),
        "replicas_a_run_max": max(each.taken_count for each in runs),
    }


def main() -> int:
    """Read the arguments, run the trial, write the result; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.budgets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/budgets.json")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--items", type=int, default=1500, help="of the task")
    parser.add_argument(
        "--answer-seconds", type=float, default=0.01, help="of the inference server, a stream at a time"
    )
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--kill-every", type=int, default=8, help="runs that end between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="longest time of all runs, in seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evalfleet-budgets-") as folder, running_postgres() as server:
        if server is None:
            raise SystemExit("needs PostgreSQL (Debian: apt-get install postgresql)")
        url = server.new_database()
        with TrivialFleet(Path(folder) / "fleet", url, options.items, answer_seconds=options.answer_seconds) as fleet:
            settings = {"EVALFLEET_LEASE_SECONDS": "2", "EVALFLEET_PARALLEL_RUNS": str(options.runs)}
            replicas = fleet.start_replicas(options.replicas, settings)
            runs, kills = run_trial(
                fleet,
                server,
                url,
                replicas,
                runs=options.runs,
                item_count=options.items,
                kill_every=options.kill_every,
                seed=options.seed,
                timeout_seconds=options.timeout,
            )
    figures = figures_of(runs, kills)
    for name, value in figures.items():
        print(f"{name:50} {value:.5g}")
    broken = broken_promises(runs)
    for line in broken:
        print(line)
    write_result(
        options.json,
        options.json.stem,
        figures=figures,
        versions=installed_versions("asyncpg", "grpcio"),
        notes=[
            f"{options.replicas} evaluation services on PostgreSQL, {options.items} items a run, random limits and "
            f"1 to 128 items in flight; seed {options.seed}",
            "the model is a fake that bills each prompt differently",
            "in flight: the run's concurrency times the dearest item; 1 would be the bound itself",
            "served: by the inference server's account, what killed replicas had in flight included",
        ],
    )
    kept = not broken and figures["interval_misses"] <= _MISSES_ALLOWED * len(runs)
    print("every promise was kept" if kept else "a promise was broken")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
