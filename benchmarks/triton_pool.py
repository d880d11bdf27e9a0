"""How many requests one generation service hands out, over one Triton and over pools of them.

The service is a process of its own, its cache of answers off. The Tritons are fakes in another process that answer at
once (benchmarks/overhead/instant_triton.py), so what is measured is the service: choosing a member, asking it over gRPC
and answering its caller, who sends items on a few bulk streams. What a request costs the service in processor time does
not depend on how many cores there are for the others; its inverse is what one service with a core of its own hands out.

    python -m benchmarks.triton_pool [--items 20000] [--rounds 3]
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from benchmarks.overhead.processes import cpu_seconds, peak_mib
from benchmarks.overhead.workload import ANSWER, write_checkpoint
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

MEMBERS: Final = (1, 8, 64)
STREAMS: Final = 8
ITEMS_A_MESSAGE: Final = 32
_WARM_UP_ITEMS: Final = 2000
_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 30.0


class Round(NamedTuple):
    """What handing out some items took: wall and processor seconds for each, and memory at its highest."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


class Handing:
    """A generation service over fake Tritons.

    Args:
        folder: for state and logs.
        members: how many Tritons.
        is_pool: whether one is named as if it could become several.
    """

    def __init__(self, folder: Path, members: int, *, is_pool: bool) -> None:
        self._folder = folder
        self._members = members
        self._is_pool = is_pool
        self._processes: list[subprocess.Popen[bytes]] = []
        self._service_id = 0
        self._target = ""
        self._item = 0

    def start(self) -> None:
        """Start both processes."""
        triton = ("benchmarks.overhead.instant_triton", "--servers", str(self._members))
        addresses, _ = self._started("triton", *triton, "--ready-file", str(self._folder / "triton.ready"))
        if self._is_pool and self._members == 1:
            addresses = addresses.replace("127.0.0.1", "localhost")
        checkpoint = write_checkpoint(self._folder / "checkpoints" / "instant")
        self._target, self._service_id = self._started(
            "service",
            "services.generation",
            EVALFLEET_PORT="0",
            EVALFLEET_STATE_DIR=str(self._folder / "state"),
            EVALFLEET_READY_FILE=str(self._folder / "service.ready"),
            EVALFLEET_TRITON_TARGET=addresses,
            EVALFLEET_CHECKPOINT_ROOTS=str(checkpoint.parent),
            EVALFLEET_CACHE_URL="off",
            EVALFLEET_DRAIN_DELAY_SECONDS="0",
            EVALFLEET_LOG_LEVEL="warning",
        )
        self._checkpoint = checkpoint

    def stop(self) -> None:
        """End both processes."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)

    async def measure(self, items: int) -> Round:
        """Hand out so many items and return what each took."""
        async with grpc.aio.insecure_channel(self._target) as channel:
            model = await self._model(channel)
            before, began = cpu_seconds(self._service_id), time.perf_counter()
            stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
            answered = await asyncio.gather(
                *(_answered(stub.StreamGenerate(self._messages(model, items // STREAMS))) for _ in range(STREAMS))
            )
            seconds = time.perf_counter() - began
            spent = cpu_seconds(self._service_id) - before
        if sum(answered) != items // STREAMS * STREAMS:
            raise RuntimeError(f"{sum(answered)} of {items} items were answered")
        return Round(seconds / items, spent / items, peak_mib(self._service_id))

    async def _model(self, channel: grpc.aio.Channel) -> str:
        """Register the model, and wait until every member has it."""
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        request = model_pb2.CreateModelRequest(model_id="instant", checkpoint_path=str(self._checkpoint))
        model = (await models.CreateModel(request, timeout=_START_SECONDS, wait_for_ready=True)).model
        return str(model.name)

    async def _messages(self, model: str, count: int) -> AsyncIterator[generation_pb2.StreamGenerateRequest]:
        sampling = generation_pb2.SamplingParameters(max_tokens=8)
        for first in range(0, count, ITEMS_A_MESSAGE):
            message = generation_pb2.StreamGenerateRequest()
            for _ in range(min(ITEMS_A_MESSAGE, count - first)):
                self._item += 1
                request = generation_pb2.GenerateRequest(
                    model=model, prompt=f"Question {self._item}: what is 2 + 3?", sampling=sampling
                )
                if not message.item_id:
                    message.item_id = str(self._item)
                    message.request.CopyFrom(request)
                else:
                    message.more.add(item_id=str(self._item), request=request)
            yield message

    def _started(self, name: str, module: str, *arguments: str, **settings: str) -> tuple[str, int]:
        """Start a process; returns what it has written into its ready file, and its id."""
        others = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
        environment = {**others, **settings, "EVALFLEET_PARENT_PID": str(os.getpid())}
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], env=environment, stdout=log, stderr=log
            )
        self._processes.append(process)
        ready, give_up_at = self._folder / f"{name}.ready", time.monotonic() + _START_SECONDS
        while not (ready.exists() and (text := ready.read_text(encoding="utf-8").strip())):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError((self._folder / f"{name}.log").read_text(errors="replace")[-4000:])
            time.sleep(0.05)
        return text, process.pid


async def _answered(outcomes: Any) -> int:
    """Count the answers of a stream.

    Raises:
        RuntimeError: one is no answer, or not the one.
    """
    count = 0
    async for message in outcomes:
        for each in (message, *message.more):
            if not each.HasField("response") or each.response.completions[0].text != ANSWER:
                raise RuntimeError(f"no answer: {each}")
            count += 1
    return count


def measured(folder: Path, members: int, *, is_pool: bool, items: int, rounds: int) -> Sequence[Round]:
    """Return the rounds of one service, after a warm-up."""
    folder.mkdir()
    handing = Handing(folder, members, is_pool=is_pool)
    try:
        handing.start()
        asyncio.run(handing.measure(_WARM_UP_ITEMS))
        return [asyncio.run(handing.measure(items)) for _ in range(rounds)]
    finally:
        handing.stop()


def figures_of(name: str, rounds: Sequence[Round]) -> Mapping[str, float]:
    """The figures of one service."""
    cpu = statistics.median(each.cpu_seconds for each in rounds)
    return {
        f"{name}_cpu_seconds_per_request": cpu,
        f"{name}_requests_per_core_second": 1 / cpu,
        f"{name}_requests_per_second": 1 / statistics.median(each.seconds for each in rounds),
        f"{name}_peak_memory_mib": max(each.peak_mib for each in rounds),
    }


def main() -> int:
    """Read the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/triton_pool.json")
    options = parser.parse_args()
    kinds = {"address": (1, False), **{f"pool_{members}": (members, True) for members in MEMBERS}}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="evalfleet-pool-") as folder:
        for name, (members, is_pool) in kinds.items():
            rounds = measured(Path(folder) / name, members, is_pool=is_pool, items=options.items, rounds=options.rounds)
            found = figures_of(name, rounds)
            figures |= found
            cpu, most, rate, peak = found.values()
            print(
                f"{name:10} {1e3 * cpu:7.3f} ms CPU a request {most:9,.0f}/s a core {rate:9,.0f}/s here {peak:6.0f} MiB"
            )
    for members in MEMBERS:
        ratio = figures[f"pool_{members}_cpu_seconds_per_request"] / figures["address_cpu_seconds_per_request"]
        figures[f"pool_{members}_cpu_seconds_per_request_ratio_address"] = ratio
    write_result(
        options.json,
        options.json.stem,
        figures=figures,
        versions=installed_versions("grpcio", "protobuf"),
        notes=[
            f"{options.rounds} rounds of {options.items} items on {STREAMS} bulk streams, medians; one process each "
            "for the service, for all fake Tritons together and for the caller, on the machine's cores together.",
            "address: EVALFLEET_TRITON_TARGET is one address, and there is no pool; pool_N: N Tritons.",
            "The fakes answer at once: nothing here says how long a model takes. requests_per_core_second is the "
            "inverse of the service's processor time, requests_per_second what came through here, on shared cores.",
        ],
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
