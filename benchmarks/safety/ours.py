"""EvalFleet's side: a whole fleet with the real Triton, asked through gRPC as any client would."""

import asyncio
import random
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc.aio
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.memory import tree_cpu_seconds
from benchmarks.peers.text_harness import Classified
from services.inference.contract import VariantName
from services.inference.engines.seams import BUSY_SECONDS
from services.standalone.testing import RunningFleet

BATCH = 256
_TIMEOUT_SECONDS = 600
_PARTS = ("safety", "inference")


class OurSafety:
    """A running fleet's safety service.

    Args:
        running: the fleet.
        stub: of its safety service.
    """

    def __init__(self, running: RunningFleet, stub: "safety_pb2_grpc.SafetyServiceAsyncStub") -> None:
        self._running = running
        self._stub = stub

    async def classify(self, texts: Sequence[str], *, in_flight: int) -> Classified:
        """Classify all texts in batches of 256, so many calls at a time."""
        places = asyncio.Semaphore(in_flight)
        cpu, began = self.cpu_seconds(), time.perf_counter()
        batches = await asyncio.gather(
            *(self._batch(texts[start : start + BATCH], places) for start in range(0, len(texts), BATCH))
        )
        seconds = time.perf_counter() - began
        return Classified([score for scores in batches for score in scores], seconds, self.cpu_seconds() - cpu)

    async def classify_one_by_one(self, texts: Sequence[str]) -> Classified:
        """Classify the texts one call after the other, each timed."""
        cpu, latencies, scores = self.cpu_seconds(), [], []
        for text in texts:
            began = time.perf_counter()
            scores.append(await self._one(text))
            latencies.append(time.perf_counter() - began)
        return Classified(scores, sum(latencies), self.cpu_seconds() - cpu, latencies)

    async def classify_at(self, texts: Sequence[str], *, calls_per_second: float, seed: int) -> list[float]:
        """Send one call a text at random times of a given rate, whatever is still in flight; return the latencies."""
        chance = random.Random(seed)

        async def timed(text: str) -> float:
            began = time.perf_counter()
            await self._one(text)
            return time.perf_counter() - began

        calls, due = [], time.perf_counter()
        for text in texts:
            due += chance.expovariate(calls_per_second)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(timed(text)))
        return list(await asyncio.gather(*calls))

    async def capacity(self, texts: Sequence[str], *, in_flight: int) -> float:
        """Return the unary calls a second that the service answers when so many are always in flight."""
        places = asyncio.Semaphore(in_flight)

        async def one(text: str) -> None:
            async with places:
                await self._one(text)

        began = time.perf_counter()
        await asyncio.gather(*map(one, texts))
        return len(texts) / (time.perf_counter() - began)

    def engine_seconds(self) -> float:
        """Return how long the guard's engine has computed so far."""
        address = self._running.metrics_targets["inference"]
        with urllib.request.urlopen(f"http://{address}/metrics") as page:
            families = text_string_to_metric_families(page.read().decode())
        return sum(sample.value for family in families for sample in family.samples if sample.name == BUSY_SECONDS)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the safety service and of Triton with all that it started."""
        processes = self._running.processes
        return sum(tree_cpu_seconds(processes[part]) for part in _PARTS)

    async def _batch(self, texts: Sequence[str], places: asyncio.Semaphore) -> list[float]:
        request = safety_pb2.BatchClassifyRequest(requests=[_request(text) for text in texts])
        async with places:
            answer = await self._stub.BatchClassify(request, timeout=_TIMEOUT_SECONDS)
        return [each.verdict.unsafe_probability for each in answer.results]

    async def _one(self, text: str) -> float:
        answer = await self._stub.Classify(_request(text), timeout=_TIMEOUT_SECONDS)
        return answer.verdict.unsafe_probability


def _request(text: str) -> safety_pb2.ClassifyRequest:
    message = common_pb2.Message(role=common_pb2.ROLE_USER, content=text)
    return safety_pb2.ClassifyRequest(
        conversation=common_pb2.Conversation(messages=[message]), aspect=safety_pb2.ASPECT_PROMPT
    )


@asynccontextmanager
async def our_safety(variant: VariantName) -> AsyncIterator[OurSafety]:
    """Start a fleet whose guard is computed by a variant; verdicts are not cached."""
    environment = {"EVALFLEET_GUARD_VARIANT": variant, "EVALFLEET_VERDICT_CACHE_URL": "off"}
    async with (
        RunningFleet(environment=environment) as running,
        grpc.aio.insecure_channel(running.endpoints["safety"]) as channel,
    ):
        ours = OurSafety(running, safety_pb2_grpc.SafetyServiceStub(channel))
        await ours.classify(["What is the time?"] * 8, in_flight=1)
        yield ours
