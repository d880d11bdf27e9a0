"""EvalFleet's side: a whole fleet with the real Triton, asked through gRPC as any client would."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc

from benchmarks.generation.prompts import GSM8K_STOPS, GSM8K_TOKENS, PromptSet, Question
from services.standalone.testing import RunningFleet

CONCURRENCY = 64
_TIMEOUT_SECONDS = 3600
_Tree = dict[int, "_Tree"]


@dataclass(slots=True)
class Answer:
    """What one side made of a prompt set.

    Attributes:
        seconds: wall clock.
        scores: log-likelihood and greedy flag of every continuation, in order.
        texts: every generated answer.
        computed_tokens: that the engine computed; 0 where a side does not say.
        peak_rss_mib: highest memory of its processes.
    """

    seconds: float
    scores: list[tuple[float, bool]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    computed_tokens: int = 0
    peak_rss_mib: float = 0.0


class OurFleet:
    """A running fleet and the checkpoint in it.

    Args:
        running: the fleet.
        channel: to its generation service.
        checkpoint: folder.
        folder: where its copies go; the fleet may load from there.
        engine: what computes.
        dtype: number type of the weights; None is the engine's default.
    """

    def __init__(
        self,
        running: RunningFleet,
        channel: grpc.aio.Channel,
        checkpoint: Path,
        folder: Path,
        engine: str,
        dtype: str | None = None,
    ) -> None:
        self._running = running
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._checkpoint = checkpoint
        self._folder = folder
        self._engine = engine
        self._dtype = dtype
        self._model = ""
        self._copies = 0

    async def load_afresh(self) -> None:
        """Register a copy of the checkpoint, so that nothing is left of what an engine remembered.

        A copy, because a vLLM engine that still holds the weights of a folder goes on with them, and with its cache.
        """
        self._model = await asyncio.to_thread(self._register)

    async def answer(self, asked: PromptSet, *, concurrency: int = CONCURRENCY) -> Answer:
        """Answer a whole set, so many requests at a time; no answer comes from the cache of answers."""
        places = asyncio.Semaphore(concurrency)
        began = time.perf_counter()
        scored = await asyncio.gather(*(self._score(question, places) for question in asked.questions))
        generated = await asyncio.gather(*(self._generate(prompt, places) for prompt in asked.prompts))
        return Answer(
            seconds=time.perf_counter() - began,
            scores=[(each.log_likelihood, each.is_greedy) for response in scored for each in response.scores],
            texts=[response.completions[0].text for response in generated],
            computed_tokens=sum(map(_computed, scored)) + sum(each.usage.computed_prompt_tokens for each in generated),
            peak_rss_mib=sum(map(peak_rss_mib, self._running.processes.values())),
        )

    async def _score(self, question: Question, places: asyncio.Semaphore) -> generation_pb2.ScoreContinuationsResponse:
        request = generation_pb2.ScoreContinuationsRequest(
            model=self._model,
            prompt=question.context,
            continuations=question.continuations,
            truncation=generation_pb2.TRUNCATION_POLICY_LEFT,
            cache_mode=generation_pb2.CACHE_MODE_BYPASS,
        )
        async with places:
            response: generation_pb2.ScoreContinuationsResponse = await self._stub.ScoreContinuations(
                request, timeout=_TIMEOUT_SECONDS
            )
            return response

    async def _generate(self, prompt: str, places: asyncio.Semaphore) -> generation_pb2.GenerateResponse:
        request = generation_pb2.GenerateRequest(
            model=self._model,
            prompt=prompt,
            sampling=generation_pb2.SamplingParameters(max_tokens=GSM8K_TOKENS, stop=GSM8K_STOPS),
            cache_mode=generation_pb2.CACHE_MODE_BYPASS,
        )
        async with places:
            response: generation_pb2.GenerateResponse = await self._stub.Generate(request, timeout=_TIMEOUT_SECONDS)
            return response

    def _register(self) -> str:
        with Fleet.connect(self._running.endpoints) as fleet:
            if self._model:
                fleet.models.remove(self._model)
            self._copies += 1
            folder = self._folder / f"{self._checkpoint.name}-{self._copies}"
            shutil.copytree(self._checkpoint, folder)
            return fleet.models.add(folder, engine=self._engine, dtype=self._dtype).name


def _computed(response: generation_pb2.ScoreContinuationsResponse) -> int:
    """Tokens that were fed to the model: the last one of a continuation is only looked up."""
    continued = sum(each.token_count - 1 for each in response.scores)
    return response.usage.computed_prompt_tokens + continued


def peak_rss_mib(pid: int) -> float:
    """Highest resident size of a process and of all below it, summed."""
    total_kib, pids = 0, [pid]
    while pids:
        process = Path("/proc", str(pids.pop()))
        try:
            lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            for thread in (process / "task").iterdir():
                pids += map(int, (thread / "children").read_text(encoding="ascii").split())
        except OSError:  # it has just ended
            continue
    return total_kib / 1024


@asynccontextmanager
async def our_fleet(checkpoint: Path, engine: str, dtype: str | None = None) -> AsyncIterator[OurFleet]:
    """Start a fleet for one engine."""
    with tempfile.TemporaryDirectory(prefix="evalfleet-bench-") as folder:
        async with (
            RunningFleet(checkpoint_roots=[Path(folder)]) as running,
            grpc.aio.insecure_channel(running.endpoints["generation"]) as channel,
        ):
            yield OurFleet(running, channel, checkpoint, Path(folder), engine, dtype)


def distinct_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Count the tokens that differ in themselves or in anything before them: the least that must be computed."""
    tree: _Tree = {}
    count = 0
    for sequence in sequences:
        node = tree
        for token in sequence:
            if token not in node:
                node[token] = {}
                count += 1
            node = node[token]
    return count
