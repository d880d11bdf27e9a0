"""How many outputs a second an exact match judges, and how many programs the sandbox runs.

Ours is the scoring service behind gRPC: a client in a process of its own sends batches and reads the scores. The peers'
scorers, lm-evaluation-harness's and Inspect AI's, are called in their own process, without any service between. The
sides take turns on the same two cores, over the same outputs, and must find the same score.

    make bench-scoring, or python -m benchmarks.scoring [--items 100000] [--rounds 3]
"""

import argparse
import asyncio
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.overhead.processes import use_cores
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from benchmarks.scoring.ours import Scored, score_all, scoring_service
from benchmarks.scoring.sandbox_speed import measure_sandbox
from benchmarks.scoring.theirs import score_with_inspect, score_with_lm_eval
from benchmarks.scoring.workload import ScoredText, make_texts, right_share

_CORES = 2
_WARM_UP_TEXTS = 5_000
_PEERS = {"lm_eval": score_with_lm_eval, "inspect": score_with_inspect}


async def measure_ours(texts: Sequence[ScoredText]) -> Scored:
    """Score all texts in a fresh service, once it is warm."""
    async with scoring_service() as (process_id, channel):
        await score_all(process_id, channel, texts[:_WARM_UP_TEXTS])
        return await score_all(process_id, channel, texts)


def measure(texts: list[ScoredText], rounds: int, peers: Sequence[str]) -> dict[str, list[Scored]]:
    """Let all sides take turns; return their rounds by name.

    Raises:
        RuntimeError: a side finds another score.
    """
    expected = right_share(texts)
    found: dict[str, list[Scored]] = {name: [] for name in ("evalfleet", *peers)}
    for number in range(1, rounds + 1):
        for name, done in found.items():
            one = asyncio.run(measure_ours(texts)) if name == "evalfleet" else _PEERS[name](texts)
            if one.items != len(texts) or abs(one.score - expected) > 1e-9:
                raise RuntimeError(
                    f"{name} scored {one.items} of {len(texts)} outputs with {one.score}, not {expected}"
                )
            done.append(one)
            cpu = 1e6 * one.cpu_seconds / one.items
            print(
                f"round {number} {name:12} {one.items_per_second:10,.0f} outputs/s {cpu:7.1f} µs CPU each", flush=True
            )
    return found


def figures_of(found: Mapping[str, Sequence[Scored]]) -> dict[str, float]:
    """Return medians of the rounds, and medians of the ratios of the same round."""
    ours = found["evalfleet"]
    figures = {
        "rounds": float(len(ours)),
        "exact_match_items_per_second": statistics.median(each.items_per_second for each in ours),
        "exact_match_cpu_seconds_per_item": statistics.median(each.cpu_seconds / each.items for each in ours),
    }
    for name, theirs in found.items():
        if name != "evalfleet":
            figures[f"{name}_exact_match_items_per_second"] = statistics.median(
                each.items_per_second for each in theirs
            )
            figures[f"exact_match_items_per_second_ratio_{name}"] = statistics.median(
                our.items_per_second / their.items_per_second for our, their in zip(ours, theirs, strict=True)
            )
    return figures


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/scoring.json")
    parser.add_argument("--items", type=int, default=100_000, help="outputs a round (default 100000)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--programs", type=int, default=100, help="programs a round of the sandbox (default 100)")
    parser.add_argument("--peers", nargs="*", choices=tuple(_PEERS), default=tuple(_PEERS), help="default: all")
    arguments = parser.parse_args()
    cores = use_cores(_CORES)
    found = measure(make_texts(arguments.items), arguments.rounds, arguments.peers)
    figures = {**figures_of(found), **asyncio.run(measure_sandbox(arguments.programs))}
    versions = installed_versions("grpcio", "protobuf", "regex")
    versions |= {name: done[0].version for name, done in found.items() if done[0].version}
    write_result(
        arguments.json,
        arguments.json.stem,
        figures=figures,
        versions=versions,
        notes=[
            f"{arguments.rounds} rounds, all sides in turn on {cores} cores; medians, also of the rounds' ratios.",
            f"{arguments.items} outputs of one to a dozen words; exact match that ignores case and punctuation "
            "(Inspect AI: match(location='exact')). All sides find the same score.",
            "Ours: a scoring service in one process and its client in another, batches of 256 through BatchScore, four "
            "in flight; from Python values to Python values, both processes on the same cores. The peers call their "
            "scorer in a loop in one process: process_results of a task, and a scorer on states made before.",
            f"Sandbox: {arguments.programs} small programs with tests a round, two at once, median of three rounds; "
            "sandbox_overhead_ms is the median time of `pass` in a sandbox that was ready, less that of a "
            "`python -c pass`, sandbox_cold_overhead_ms that where the sandbox is started first. neighbour_slowdown "
            "is the share by which a computing program takes longer beside a hostile one than beside one that sleeps.",
        ],
    )
    for name, value in figures.items():
        print(f"{name:52} {value:.5g}")


if __name__ == "__main__":
    main()
