"""What an item costs the host: our four services, Inspect AI and lm-evaluation-harness, on the same trivial items.

The model answers at once: a fake inference server that speaks Triton's protocol (instant_triton.py), Inspect's mockllm,
and lm-evaluation-harness's dummy. Everything runs on two cores, in turn. Of ours, the time of all processes counts:
evaluation, generation, scoring, aggregation, the fake, and the client that watches the run.

    python -m benchmarks.overhead [--items 100000] [--rounds 3] [--memory-items 10000 1000000]
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.overhead.ours import CONCURRENCY, Cost, HostPath
from benchmarks.overhead.processes import use_cores
from benchmarks.overhead.theirs import PeerCost, run_inspect, run_lm_eval
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

_CORES = 2
_PEERS = ("inspect", "inspect_display_on", "lm_eval")


def run_peer(name: str, arguments: argparse.Namespace) -> PeerCost:
    """Run a peer once."""
    if name == "lm_eval":
        return run_lm_eval(arguments.lm_eval_items)
    return run_inspect(
        arguments.inspect_items, "full" if name == "inspect_display_on" else "none", arguments.inspect_connections
    )


def measure_speed(arguments: argparse.Namespace) -> Iterator[tuple[list[Cost], dict[str, list[PeerCost]]]]:
    """Run the rounds of all sides in turn; yield the costs of all rounds so far after each."""
    ours: list[Cost] = []
    theirs: dict[str, list[PeerCost]] = {name: [] for name in arguments.peers}
    for number in range(1, arguments.rounds + 1):
        with HostPath(profiles=arguments.profiles) as path:
            cost = path.measure(arguments.items)
        ours.append(cost)
        parts = ", ".join(f"{name} {1000 * spent / cost.items:.3f}" for name, spent in cost.cpu_seconds.items())
        _print(number, "evalfleet", cost.items, cost.seconds, cost.cpu_seconds_per_item, cost.peak_mib)
        print(f"    CPU milliseconds an item: {parts}", flush=True)
        for name, costs in theirs.items():
            peer = run_peer(name, arguments)
            costs.append(peer)
            _print(number, name, peer.items, peer.seconds, peer.cpu_seconds_per_item, peer.peak_mib)
        yield ours, theirs


def speed_figures(ours: Sequence[Cost], theirs: dict[str, list[PeerCost]]) -> dict[str, float]:
    """Return medians of the rounds, and medians of the ratios of the same round."""
    figures = {
        "rounds": float(len(ours)),
        "items_per_second": statistics.median(each.items / each.seconds for each in ours),
        "cpu_seconds_per_item": statistics.median(each.cpu_seconds_per_item for each in ours),
        "peak_memory_mib": statistics.median(each.peak_mib for each in ours),
    }
    for name in ours[0].cpu_seconds:
        spent = statistics.median(each.cpu_seconds[name] / each.items for each in ours)
        figures[f"{name}_cpu_seconds_per_item"] = spent
    for name, costs in theirs.items():
        pairs = list(zip(ours, costs, strict=True))
        figures |= {
            f"{name}_items_per_second": statistics.median(each.items / each.seconds for each in costs),
            f"{name}_cpu_seconds_per_item": statistics.median(each.cpu_seconds_per_item for each in costs),
            f"{name}_peak_memory_mib": statistics.median(each.peak_mib for each in costs),
            f"cpu_seconds_per_item_ratio_{name}": statistics.median(
                our.cpu_seconds_per_item / peer.cpu_seconds_per_item for our, peer in pairs
            ),
        }
    return figures


def memory_figures(counts: Sequence[int]) -> Iterator[dict[str, float]]:
    """Run few and many items, each in fresh services, and compare the highest memory; yield figures as they come."""
    peaks: dict[int, float] = {}
    for count in counts:
        with HostPath() as path:
            cost = path.measure(count)
        peaks[count] = cost.peak_mib
        _print(1, "evalfleet", cost.items, cost.seconds, cost.cpu_seconds_per_item, cost.peak_mib)
        print("    peak MiB: " + ", ".join(f"{name} {peak:.0f}" for name, peak in cost.peaks_mib.items()), flush=True)
        yield {
            f"peak_memory_mib_{_short(count)}": cost.peak_mib,
            **{f"{name}_peak_memory_mib_{_short(count)}": peak for name, peak in cost.peaks_mib.items()},
        }
    few, many = counts
    yield {f"peak_memory_growth_{_short(few)}_to_{_short(many)}": peaks[many] / peaks[few]}


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "m"), (1000, "k")):
        if count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def _print(number: int, name: str, items: int, seconds: float, cpu_seconds_per_item: float, peak_mib: float) -> None:
    print(
        f"round {number} {name:20} {items:8} items {seconds:8.1f} s {items / seconds:8.0f} items/s "
        f"{1000 * cpu_seconds_per_item:8.3f} ms CPU an item {peak_mib:7.0f} MiB",
        flush=True,
    )


def notes_of(arguments: argparse.Namespace, cores: int) -> list[str]:
    """Say how the figures were obtained."""
    return [
        f"{arguments.rounds} rounds, each side in turn on {cores} cores; medians, and medians of the rounds' ratios.",
        f"Ours: {arguments.items} items a round through evaluation, generation (its cache of answers on, every item "
        "new), scoring and aggregation (SQLite, durable), with fresh processes and folders every round and "
        f"{CONCURRENCY} items in flight; CPU seconds are user and system time of the four services, of the fake "
        "inference server and of the client, which watches the run with its estimates.",
        "The fake inference server (benchmarks/overhead/instant_triton.py) speaks Triton's gRPC protocol and answers "
        "at once: what Triton itself costs an item is not in the figures, what the client of its protocol costs is.",
        f"Inspect AI: {arguments.inspect_items} items, mockllm, {arguments.inspect_connections} connections, display "
        f"none and full (on a pseudo-terminal); lm-evaluation-harness: {arguments.lm_eval_items} items, dummy model, "
        "simple_evaluate as it is. Fewer items than ours, because their cost an item does not depend on how many there "
        "are. Their start and imports do not count, nor do ours; a warm-up of some items comes first everywhere.",
        "peak_memory: sum over processes of the highest resident size that the kernel has seen.",
    ]


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/overhead.json")
    parser.add_argument("--items", type=int, default=100_000, help="ours a round (default 100000)")
    parser.add_argument("--inspect-items", type=int, default=2_000, help="Inspect's a round (default 2000)")
    parser.add_argument("--inspect-connections", type=int, default=64, help="of Inspect's model (default 64)")
    parser.add_argument("--lm-eval-items", type=int, default=20_000, help="lm-evaluation-harness's (default 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3); 0: memory alone")
    parser.add_argument("--peers", nargs="*", choices=_PEERS, default=_PEERS, help="who takes part (default: all)")
    parser.add_argument(
        "--memory-items",
        nargs="*",
        type=int,
        default=(10_000, 1_000_000),
        help="compare the memory of so many and so many items (default: 10000 1000000); none: leave that out",
    )
    parser.add_argument("--profiles", type=Path, default=None, help="write a cProfile of every process there")
    arguments = parser.parse_args()
    cores = use_cores(_CORES)
    figures: dict[str, float] = {}
    versions = installed_versions("grpcio", "protobuf", "sqlalchemy")

    def keep(found: Mapping[str, float]) -> None:
        # Written down part by part: what is measured last takes the longest, and may fail.
        figures.update(found)
        write_result(
            arguments.json,
            arguments.json.stem,
            figures=figures,
            versions=versions,
            notes=notes_of(arguments, cores),
        )

    if arguments.rounds:
        for ours, theirs in measure_speed(arguments):
            versions |= {name: costs[0].version for name, costs in theirs.items() if name != "inspect_display_on"}
            keep(speed_figures(ours, theirs))
    if arguments.memory_items:
        for found in memory_figures(arguments.memory_items):
            keep(found)
    for name, value in figures.items():
        print(f"{name:52} {value:.5g}")


if __name__ == "__main__":
    main()
