"""How soon the engine stops when callers leave, and whether those who left stay in memory.

Starts a whole fleet with the real Triton and a small model that never ends an answer by itself. Waves of callers are
cancelled in the middle of long answers; the engine's own gauge of running sequences and its counter of generated tokens
say when the work stopped. Then thousands of streams are opened and cancelled, and the memory of the generation service
and of Triton with its model processes is compared before and after. A planted leak of known size shows that the
comparison would see one.

    python -m benchmarks.cancellation [--streams 10000]
"""

import argparse
import asyncio
import gc
import os
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

from benchmarks.endless_model import write_endless_model
from benchmarks.memory import PlantedLeak, tree_resident_mib
from benchmarks.report import installed_versions, write_result
from services.inference.triton_server import log_tail
from services.standalone.testing import RunningFleet

RESULT = Path(__file__).parent / "results" / "cancellation.json"
RUNNING = "evalfleet_engine_running_sequences"
GENERATED = "evalfleet_engine_generated_tokens_total"
CANCELLED = "evalfleet_engine_cancelled_requests_total"
WAVE = 32
WAVES = 10
AT_ONCE = 50
_POLL_SECONDS = 0.004


class Engine:
    """The engine's own figures, from Triton's metrics endpoint."""

    def __init__(self, target: str) -> None:
        self._url = f"http://{target}/metrics"

    async def read(self, name: str) -> float:
        """Return the sum of a metric over all models."""
        text = await asyncio.to_thread(self._text)
        return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))

    async def until(self, name: str, is_so: Callable[[float], bool], *, timeout_seconds: float = 30.0) -> None:
        """Poll a metric until it is as wanted."""
        async with asyncio.timeout(timeout_seconds):
            while not is_so(await self.read(name)):  # noqa: ASYNC110 - another process's gauge sends no events
                await asyncio.sleep(_POLL_SECONDS)

    def _text(self) -> str:
        with urllib.request.urlopen(self._url, timeout=30) as reply:
            text: str = reply.read().decode()
        return text


class Callers:
    """Calls that would go on for long, were they not cancelled."""

    def __init__(self, channel: grpc.aio.Channel, model: str, *, max_tokens: int = 4000) -> None:
        self._stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self._model = model
        self._max_tokens = max_tokens
        self._number = 0

    def request(self) -> generation_pb2.GenerateRequest:
        """Return a request for a long answer, different from all before."""
        self._number += 1
        sampling = generation_pb2.SamplingParameters(max_tokens=self._max_tokens)
        return generation_pb2.GenerateRequest(
            model=self._model, prompt=f"{self._number} is a number", sampling=sampling
        )

    def unary(self, timeout_seconds: float = 120.0) -> Any:
        """Ask for a whole answer."""
        return self._stub.Generate(self.request(), timeout=timeout_seconds)

    def tokens(self) -> Any:
        """Ask for an answer piece by piece."""
        return self._stub.GenerateTokens(generation_pb2.GenerateTokensRequest(request=self.request()), timeout=120.0)

    def bulk(self) -> Any:
        """Open a bulk stream with one item; it stays open."""
        item = generation_pb2.StreamGenerateRequest(item_id="1", request=self.request())

        async def items() -> Any:
            yield item
            await asyncio.Event().wait()

        return self._stub.StreamGenerate(items())


async def stop_milliseconds(
    engine: Engine, start: Callable[[], Any], end: Callable[[list[Any]], Awaitable[None]]
) -> float:
    """Start a wave of calls, end them, and return how long the engine went on; its counter must stand still then."""
    calls = [start() for _ in range(WAVE)]
    await engine.until(RUNNING, lambda running: running >= WAVE)
    await end(calls)
    left = time.perf_counter()
    await engine.until(RUNNING, lambda running: running == 0)
    milliseconds = (time.perf_counter() - left) * 1000
    before = await engine.read(GENERATED)
    await asyncio.sleep(0.7)
    assert await engine.read(GENERATED) == before, "tokens were generated after the engine said that it had stopped"
    return milliseconds


async def cancel_all(calls: list[Any]) -> None:
    """Leave, as a client does that is not interested any more."""
    for call in calls:
        call.cancel()


async def await_deadlines(calls: list[Any]) -> None:
    """Wait until every call's own deadline has ended it."""
    await asyncio.gather(*calls, return_exceptions=True)


async def cancel_streams(callers: Callers, count: int) -> None:
    """Open and cancel ``count`` streams: half are bulk streams, half token streams of which one piece was read."""

    async def one(number: int) -> None:
        if number % 2:
            call = callers.bulk()
            await asyncio.sleep(0.005)
        else:
            call = callers.tokens()
            await anext(aiter(call))
        call.cancel()

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(first, min(first + AT_ONCE, count))))


async def measure(fleet: RunningFleet, checkpoint: Path, streams: int) -> dict[str, float]:
    """Run everything against a fleet and return the figures."""
    engine = Engine(fleet.metrics_targets["inference"])
    async with grpc.aio.insecure_channel(fleet.endpoints["generation"]) as channel:
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        answer = await models.CreateModel(
            model_pb2.CreateModelRequest(model_id="endless", checkpoint_path=str(checkpoint)), timeout=120
        )
        callers = Callers(channel, answer.model.name)
        await engine_is_ready(callers)
        # PyTorch is loaded here: collecting its objects would hold cancellations up for a quarter of a second.
        gc.collect()
        gc.freeze()
        figures: dict[str, float] = {}
        kinds: dict[str, tuple[Callable[[], Any], Callable[[list[Any]], Awaitable[None]]]] = {
            "unary": (callers.unary, cancel_all),
            "token_stream": (callers.tokens, cancel_all),
            "bulk_stream": (callers.bulk, cancel_all),
            "deadline": (lambda: callers.unary(1.5), await_deadlines),
        }
        for name, (start, end) in kinds.items():
            taken = [await stop_milliseconds(engine, start, end) for _ in range(WAVES)]
            figures[f"{name}_stop_median_ms"] = statistics.median(taken)
            figures[f"{name}_stop_largest_ms"] = max(taken)
            print(f"{name:14} engine idle after {statistics.median(taken):6.1f} ms, at most {max(taken):.1f} ms")
        figures |= await memory(fleet, engine, callers, streams)
    return figures


async def engine_is_ready(callers: Callers) -> None:
    """Wait for the first piece of an answer."""
    call = callers.tokens()
    await anext(aiter(call))
    call.cancel()


def check_triton_lives(fleet: RunningFleet, process: int) -> None:
    """Raise with the end of Triton's log if it is not the process that it was."""
    if fleet.processes["inference"] != process:
        log = fleet.state_dir / "inference" / "triton.log"
        raise RuntimeError(f"Triton was started again in between; its log: {log_tail(log, lines=80)}\n{fleet.output}")


async def memory(fleet: RunningFleet, engine: Engine, callers: Callers, streams: int) -> dict[str, float]:
    """Cancel many streams and compare the memory before and after."""
    await cancel_streams(callers, max(100, streams // 5))
    await engine.until(RUNNING, lambda running: running == 0)
    parts = {"generation": fleet.processes["generation"], "triton": fleet.processes["inference"]}
    before = {name: tree_resident_mib(process) for name, process in parts.items()}
    started = time.perf_counter()
    await cancel_streams(callers, streams)
    await engine.until(RUNNING, lambda running: running == 0)
    check_triton_lives(fleet, parts["triton"])
    figures = {
        "cancelled_streams": float(streams),
        "cancelled_streams_per_second": streams / (time.perf_counter() - started),
    }
    for name, process in parts.items():
        after = tree_resident_mib(process)
        figures[f"{name}_before_mib"], figures[f"{name}_after_mib"] = before[name], after
        figures[f"{name}_growth_ratio"] = after / before[name]
        print(f"{name:14} {before[name]:.0f} MiB before, {after:.0f} MiB after {streams} cancelled streams")
    with PlantedLeak(kib_a_stream=4, streams=streams) as leak:
        figures["planted_leak_growth_ratio"] = leak.after_mib / leak.before_mib
        figures["planted_leak_mib"] = leak.after_mib - leak.before_mib
    print(f"a planted leak of 4 KiB a stream shows as {figures['planted_leak_mib']:.0f} MiB")
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000, help="streams to cancel (default: 10000)")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_endless_model(Path(folder) / "endless")
        with RunningFleet(
            checkpoint_roots=[Path(folder)],
            environment={"EVALFLEET_TORCH_THREADS": "1"},
        ) as fleet:
            figures = asyncio.run(measure(fleet, checkpoint, arguments.streams))
    write_result(
        RESULT,
        "cancellation",
        figures=figures,
        versions=installed_versions("grpcio", "nvidia-pytriton", "torch"),
        notes=[
            f"{WAVES} waves a kind, {WAVE} long answers at once, cancelled together: time until the engine's gauge "
            "of running sequences, polled on Triton's metrics endpoint, is 0, with the counter of tokens still then.",
            "deadline: the calls' own deadline ends them; the time starts when the last caller has its error.",
            "Memory is resident memory of the process tree, after a warm-up of a fifth as many cancelled streams.",
            "The planted leak keeps 4 KiB a stream in a process of its own and is measured in the same way.",
            "Triton was the same process before and after; the benchmark fails otherwise.",
            f"Load average of the machine: {load_before:.1f} before, {os.getloadavg()[0]:.1f} after.",
        ],
    )


if __name__ == "__main__":
    main()
