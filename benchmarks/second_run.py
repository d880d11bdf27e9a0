"""What an identical second run of the demo suite costs: a fresh fleet each round, the trained tiny policy, two runs.

The first run of a round begins with empty caches, but with engines that have answered before, as in a fleet that is up.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot

from benchmarks.generation.checkpoint import trained_tiny_policy
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from services.standalone.testing import RunningFleet

SUITE = "demo"


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of both runs, as the service tells them, and what the second one computed."""

    first_seconds: float
    second_seconds: float
    first_computed_tokens: int
    second_computed_tokens: int


def run_round(checkpoint: Path) -> Round:
    """Start a fleet, run the suite twice, stop the fleet."""
    with (
        RunningFleet(checkpoint_roots=[checkpoint.parent]) as running,
        Fleet.connect(state_dir=running.state_dir) as fleet,
    ):
        model = fleet.models.add(checkpoint).name
        _run(fleet, model, item_limit=2, seed=1)
        first, second = (_run(fleet, model) for _ in range(2))
    return Round(_seconds(first), _seconds(second), _computed(first), _computed(second))


def _run(fleet: Fleet, model: str, *, item_limit: int | None = None, seed: int | None = None) -> RunSnapshot:
    started = fleet.runs.start(model=model, suite=SUITE, item_limit=item_limit, seed=seed)
    for _ in fleet.runs.watch(started.name):
        pass
    return fleet.runs.snapshot(started.name)


def _seconds(snapshot: RunSnapshot) -> float:
    assert snapshot.run.seconds is not None, "the run has not ended"
    return snapshot.run.seconds


def _computed(snapshot: RunSnapshot) -> int:
    return sum(each.computed_tokens for each in snapshot.totals)


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/second_run.json")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the tiny policy, trained if need be")
    parser.add_argument("--rounds", type=int, default=5, help="fresh fleets (default 5)")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or trained_tiny_policy(ROOT / ".cache" / "tiny_policy")
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(run_round(checkpoint.resolve()))
        print(
            f"round {number + 1}: {rounds[-1].first_seconds:.2f} s, then {rounds[-1].second_seconds:.2f} s", flush=True
        )
    figures = {
        "first_run_seconds": statistics.median(each.first_seconds for each in rounds),
        "second_run_seconds": statistics.median(each.second_seconds for each in rounds),
        "second_over_first_ratio": statistics.median(each.second_seconds / each.first_seconds for each in rounds),
        "second_over_first_largest_ratio": max(each.second_seconds / each.first_seconds for each in rounds),
        "first_run_computed_tokens": rounds[0].first_computed_tokens,
        "second_run_computed_tokens": max(each.second_computed_tokens for each in rounds),
    }
    for name, value in figures.items():
        print(f"{name:36} {value:.5g}")
    write_result(
        arguments.json,
        arguments.json.stem,
        figures=figures,
        versions=installed_versions("torch", "transformers", "grpcio"),
        notes=[
            f"suite {SUITE}, {len(rounds)} rounds, a fresh fleet each; medians",
            "before the first run, two items of each task are asked with another seed, so that nothing is started "
            "or compiled during the measurement; their answers may be in the cache",
            "second_run_computed_tokens: the largest of all rounds",
        ],
    )


if __name__ == "__main__":
    main()
