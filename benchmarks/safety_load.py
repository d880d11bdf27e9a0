"""An RL trainer's load on the safety service: does every completion get its verdict, and does memory stay flat?

Starts Triton and the safety service alone, as the README says. Clients with a channel each send batches of new
completions one after another, as rollout workers do that wait for their rewards. Every text is new, so that nothing is
answered from the verdict cache, which is on. The memory of both processes with their descendants is read every second.

    python -m benchmarks.safety_load [--clients 8] [--batch 64] [--seconds 120]
"""

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from benchmarks.memory import whole_resident_mib
from benchmarks.report import installed_versions, write_result
from benchmarks.safety_alone import SafetyAlone

RESULT = Path(__file__).parent / "results" / "safety_load.json"
WORDS = Path(__file__).parents[1] / "examples" / "tiny_policy" / "english_words.txt"
SHORTEST_WORDS, LONGEST_WORDS = 10, 160
# As long as the guard itself may take: on slow machines eight batches wait for one another.
CALL_SECONDS = 120.0
WARM_UP_BATCHES = 2
# Of the whole time (30 of 120 seconds): caches, thread pools and allocators grow to their size.
WARM_UP_SHARE = 0.25
# Of the whole time: the levels behind the warm-up and at the end are medians of so much.
LEVEL_SHARE = 0.1
SERIES_STEPS = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory of a process tree at one moment.

    Attributes:
        seconds: since the load began.
        resident_mib: of each process, by program name and process id.
    """

    seconds: float
    resident_mib: Mapping[str, float]

    @property
    def total_mib(self) -> float:
        """Of all processes."""
        return sum(self.resident_mib.values())


@dataclass(slots=True)
class Tally:
    """What became of everything that was asked."""

    verdicts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    call_seconds: list[float] = field(default_factory=list)
    memory: dict[str, list[Sample]] = field(default_factory=dict)


class Completions:
    """Invents completions, each different from all before.

    Args:
        seed: of lengths and words; it is part of the texts.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._words = WORDS.read_text(encoding="utf-8").split()
        self._numbers = itertools.count()

    def batch(self, size: int) -> safety_pb2.BatchClassifyRequest:
        """Return a batch of completions, to be judged as responses."""
        return safety_pb2.BatchClassifyRequest(requests=[self._request() for _ in range(size)])

    def _request(self) -> safety_pb2.ClassifyRequest:
        # Lengths spread evenly over their logarithm: many short ones, some long.
        length = round(SHORTEST_WORDS * (LONGEST_WORDS / SHORTEST_WORDS) ** self._random.random())
        text = f"{self._seed}/{next(self._numbers)} {' '.join(self._random.choices(self._words, k=length))}"
        turns = [
            common_pb2.Message(role=common_pb2.ROLE_USER, content="Write something."),
            common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=text),
        ]
        return safety_pb2.ClassifyRequest(
            conversation=common_pb2.Conversation(messages=turns), aspect=safety_pb2.ASPECT_RESPONSE
        )


async def client(target: str, seed: int, size: int, until_seconds: float, tally: Tally) -> None:
    """Send batches one after another until the time is up."""
    completions = Completions(seed)
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = safety_pb2_grpc.SafetyServiceStub(channel)
        while time.monotonic() < until_seconds:
            request = completions.batch(size)
            started = time.monotonic()
            try:
                answer = await stub.BatchClassify(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                tally.failures[f"call {error.code().name}"] += 1
                continue
            tally.call_seconds.append(time.monotonic() - started)
            count(answer.results, size, tally)


def count(results: Any, size: int, tally: Tally) -> None:
    """Note what became of each item of a batch."""
    if len(results) != size:
        tally.failures["WRONG_RESULT_COUNT"] += abs(size - len(results))
    for each in results:
        if not each.HasField("verdict"):
            tally.failures[f"item {reason_of(each.status)}"] += 1
        elif each.verdict.decision not in (safety_pb2.DECISION_SAFE, safety_pb2.DECISION_UNSAFE):
            tally.failures[f"verdict {each.verdict.error_reason or each.verdict.decision}"] += 1
        else:
            tally.verdicts[safety_pb2.Decision.Name(each.verdict.decision)] += 1
            if each.verdict.cached:
                tally.failures["CACHED"] += 1


def reason_of(status: status_pb2.Status) -> str:
    """Return the reason in an item's status."""
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for packed in status.details if packed.Unpack(info)), str(status.code))


async def watch_memory(process_ids: dict[str, int], tally: Tally) -> None:
    """Read the memory of process trees every second, until cancelled."""
    started = time.monotonic()
    while True:
        for name, process in process_ids.items():
            used = await asyncio.to_thread(whole_resident_mib, process)
            tally.memory.setdefault(name, []).append(Sample(time.monotonic() - started, used))
        await asyncio.sleep(1.0)


async def load(alone: SafetyAlone, clients: int, size: int, seconds: float) -> tuple[Tally, float]:
    """Run the clients, and return what became of everything and how long it took."""
    warm_up = Completions(1_000_000)
    async with grpc.aio.insecure_channel(alone.target) as channel:
        stub: Any = safety_pb2_grpc.SafetyServiceStub(channel)
        for _ in range(WARM_UP_BATCHES):
            await stub.BatchClassify(warm_up.batch(size), timeout=CALL_SECONDS)
    tally = Tally()
    watching = asyncio.create_task(watch_memory(alone.process_ids, tally))
    started = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            for seed in range(clients):
                group.create_task(client(alone.target, seed, size, started + seconds, tally))
    finally:
        watching.cancel()
    return tally, time.monotonic() - started


def figures_of(tally: Tally, clients: int, size: int, seconds: float) -> dict[str, float]:
    """Return the flat figures of a run."""
    items = sum(tally.verdicts.values())
    latencies = sorted(tally.call_seconds) or [0.0]
    figures = {
        "clients": float(clients),
        "batch_items": float(size),
        "seconds": seconds,
        "judged_items": float(items),
        "failures": float(sum(tally.failures.values())),
        "items_per_second": items / seconds,
        "batch_p50_ms": 1000 * statistics.median(latencies),
        "batch_p99_ms": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
    }
    for name, samples in tally.memory.items():
        figures |= memory_figures(name, samples)
    return figures


def memory_figures(name: str, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the memory at the start, behind the warm-up and at the end, and both growths."""
    end = samples[-1].seconds
    warm, level = WARM_UP_SHARE * end, LEVEL_SHARE * end
    start = samples[0].total_mib
    behind = [each.total_mib for each in samples if warm <= each.seconds <= warm + level] or [start]
    last = [each.total_mib for each in samples if each.seconds >= end - level]
    warmed, final = statistics.median(behind), statistics.median(last)
    return {
        f"{name}_start_mib": start,
        f"{name}_warm_mib": warmed,
        f"{name}_end_mib": final,
        f"{name}_peak_mib": max(each.total_mib for each in samples),
        f"{name}_growth_from_start_ratio": final / start,
        f"{name}_growth_after_warm_up_ratio": final / warmed,
    }


def memory_series(samples: Sequence[Sample]) -> list[str]:
    """Return a line for each process: its memory at some moments of the run, in MiB."""
    chosen = samples[:: max(1, len(samples) // SERIES_STEPS)]
    names = dict.fromkeys(name for each in samples for name in each.resident_mib)
    return [
        f"{name.partition('/')[0]}: " + " ".join(f"{each.resident_mib.get(name, 0.0):.0f}" for each in chosen)
        for name in names
    ]


def main() -> None:
    """Run the load, print a short table and write the result; exit 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", type=Path, default=RESULT)
    told = parser.parse_args()
    with SafetyAlone() as alone:
        tally, seconds = asyncio.run(load(alone, told.clients, told.batch, told.seconds))
    figures = figures_of(tally, told.clients, told.batch, seconds)
    for name, value in figures.items():
        print(f"{name:24} {value:,.2f}")
    for name, number in sorted(tally.failures.items()):
        print(f"failed: {name} {number:,}")
    series = {name: memory_series(samples) for name, samples in tally.memory.items()}
    for name, lines in series.items():
        print("\n".join(f"MiB of {name}, {line}" for line in lines))
    notes = [
        "Triton and the safety service alone on one machine with the load's own clients, which take CPU from them.",
        f"Completions of {SHORTEST_WORDS} to {LONGEST_WORDS} words, all different; the verdict cache is on, never hit.",
        "Memory is resident memory of each process with its descendants, shared pages counted by each. start: behind "
        f"{WARM_UP_BATCHES} batches; warm: when {WARM_UP_SHARE:.0%} of the time is over; end: the last tenth. "
        "growth_from_start has the warm-up in it, growth_after_warm_up has not.",
        *(f"MiB of {name} in {SERIES_STEPS} equal steps, {line}" for name, lines in series.items() for line in lines),
    ]
    write_result(told.json, "safety_load", figures=figures, versions=installed_versions("grpcio", "torch"), notes=notes)
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
