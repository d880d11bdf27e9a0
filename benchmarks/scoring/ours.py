"""Our side: a scoring service as a process of its own, and a client of BatchScore."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from google.protobuf import json_format, struct_pb2

from benchmarks.overhead.processes import cpu_seconds
from benchmarks.peers import ROOT
from benchmarks.scoring.workload import ScoredText
from services.runtime.channels import open_channel

_BATCH = 256
_CALLS_IN_FLIGHT = 4
_START_SECONDS = 60.0
_PARAMETERS = {"ignore_case": True, "ignore_punctuation": True}


@dataclass(frozen=True, slots=True)
class Scored:
    """What scoring all texts took; CPU seconds are of all processes that took part."""

    items: int
    seconds: float
    cpu_seconds: float
    score: float
    version: str = ""

    @property
    def items_per_second(self) -> float:
        """Throughput."""
        return self.items / self.seconds


@asynccontextmanager
async def scoring_service() -> AsyncIterator[tuple[int, grpc.aio.Channel]]:
    """Yield the process id of a new scoring service, and a channel to it."""
    with tempfile.TemporaryDirectory(prefix="evalfleet-scoring-") as folder:
        ready = Path(folder) / "ready"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
        environment |= {
            "EVALFLEET_PORT": "0",
            "EVALFLEET_READY_FILE": str(ready),
            "EVALFLEET_PARENT_PID": str(os.getpid()),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.scoring", cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            address = await asyncio.to_thread(_address_in, ready)
            async with open_channel(address) as channel:
                yield process.pid, channel
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _address_in(ready: Path) -> str:
    ends = time.monotonic() + _START_SECONDS
    while not ready.exists():
        if time.monotonic() > ends:
            raise TimeoutError("the scoring service does not serve")
        time.sleep(0.05)
    return ready.read_text(encoding="utf-8").strip()


async def score_all(process_id: int, channel: grpc.aio.Channel, texts: Sequence[ScoredText]) -> Scored:
    """Score all texts in batches, from plain Python values to plain Python values."""
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    parameters = json_format.ParseDict(_PARAMETERS, struct_pb2.Struct())
    starts = iter(range(0, len(texts), _BATCH))
    values: list[float] = []

    async def call_after_call() -> None:
        for start in starts:
            requests = [
                scoring_pb2.ScoreRequest(
                    scorer="scorers/exact_match", parameters=parameters, text=each.text, targets=[each.target]
                )
                for each in texts[start : start + _BATCH]
            ]
            answer = await stub.BatchScore(scoring_pb2.BatchScoreRequest(requests=requests), timeout=60)
            values.extend(result.response.metrics["exact_match"] for result in answer.results)

    spent = cpu_seconds(process_id) + time.process_time()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLS_IN_FLIGHT):
            group.create_task(call_after_call())
    seconds = time.perf_counter() - began
    spent = cpu_seconds(process_id) + time.process_time() - spent
    return Scored(len(values), seconds, spent, sum(values) / len(values))
