"""An inference server in memory, and checkpoint folders small enough to write in a test."""

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import NoReturn

from services.generation.backend import Deployment, EngineAnswer, EngineScores
from services.generation.errors import ModelLostError
from services.generation.requests import ContinuationScore, FinishReason, Prompt, Sampling, TextPiece
from services.runtime.deadlines import remaining_seconds
from tests.patience import LONGEST_WAIT_SECONDS


class FakeInferenceBackend:
    """Obeys the ``InferenceBackend`` protocol; a test decides when it is down, slow, or fails.

    An answer's text is ``{deployment}|{prompt}|{seed}``, one token a character.
    """

    def __init__(self) -> None:
        self.is_up = True
        self.loaded: dict[str, Deployment] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.adopted: list[Deployment] = []
        self.lists = 0
        self.list_gate: asyncio.Event | None = None
        self.load_deadlines: list[float | None] = []
        self.crashed: set[str] = set()
        self.load_gate: asyncio.Event | None = None
        self.load_errors: list[Exception] = []
        self.unload_errors: list[Exception] = []
        self.on_load: list[Path] = []
        self.gate: asyncio.Event | None = None
        self.piece_gate: asyncio.Event | None = None
        self.lose_after: int | None = None
        self.failures: dict[str, Exception] = {}
        self.held: set[str] = set()
        self.answered = 0
        self.samplings: list[Sampling] = []
        self.timeouts: list[float] = []
        self.asked = asyncio.Event()
        self.loading = asyncio.Event()
        self._happened = asyncio.Event()
        self.in_flight = 0
        self.most_in_flight = 0
        self.cancelled = 0

    def kill(self) -> None:
        """Go away and forget all models, as a killed server does."""
        self.is_up = False
        self.loaded.clear()

    def crash_engines(self) -> None:
        """Let the engines die while the server goes on listing their models."""
        self.crashed |= set(self.loaded)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until ``is_so``; asked again whenever the service has called the backend."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while not is_so():
                self._happened.clear()
                await self._happened.wait()

    async def is_ready(self) -> bool:
        return self.is_up

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        self._check_up()
        names = frozenset(self.loaded)
        self.lists += 1
        self._happened.set()
        if self.list_gate is not None:
            await self.list_gate.wait()
        return names

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        self._check_up()
        return 1 << 30

    def adopt(self, deployment: Deployment) -> None:
        self.adopted.append(deployment)

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        self._check_up()
        self.loads.append(deployment.name)
        self.load_deadlines.append(remaining_seconds())
        self.loading.set()
        self._happened.set()
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.load_errors:
            raise self.load_errors.pop(0)
        for file in self.on_load:
            file.write_bytes(file.read_bytes() + b" ")
        self.loaded.setdefault(deployment.name, deployment)
        self._happened.set()

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        self._check_up()
        self.unloads.append(name)
        if self.unload_errors:
            raise self.unload_errors.pop(0)
        self.loaded.pop(name, None)
        self.crashed.discard(name)
        self._happened.set()

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        self.samplings.append(sampling)
        self.timeouts.append(timeout_seconds)
        said = await self._work(name, prompt)
        text = f"{name}|{said}|{sampling.seed}"
        return EngineAnswer(text, FinishReason.STOP, len(said), len(text), truncated=truncate, engine_seconds=0.5)

    async def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Yield the answer character by character; ``piece_gate`` stops it after each, ``lose_after`` loses it."""
        answer = await self.generate(name, prompt, sampling, truncate=truncate, timeout_seconds=timeout_seconds)
        self.in_flight += 1
        try:
            for index, character in enumerate(answer.text):
                if index == self.lose_after:
                    raise ModelLostError("the server is gone")
                yield TextPiece(character, 1, answer.prompt_tokens)
                if self.piece_gate is not None:
                    await self.piece_gate.wait()
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
            self._happened.set()
        yield answer

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        said = await self._work(name, context)
        scores = [
            ContinuationScore(-float(len(each)), index == 0, len(each)) for index, each in enumerate(continuations)
        ]
        return EngineScores(scores, len(said), truncated=truncate, engine_seconds=0.25)

    async def _work(self, name: str, prompt: Prompt) -> str:
        said = prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.asked.set()
        self._happened.set()
        try:
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
            self._check_up()
            if name in self.crashed:
                raise ModelLostError(f"{name} is not healthy", reason="ENGINE_CRASHED", engine_crashed=True)
            if name not in self.loaded:
                raise ModelLostError(f"{name} is not loaded", reason="MODEL_NOT_LOADED")
            if said in self.failures:
                raise self.failures[said]
            if said in self.held:
                await asyncio.Event().wait()
            self.answered += 1
            return said
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
            self._happened.set()

    def _check_up(self) -> None:
        if not self.is_up:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise ModelLostError("the server cannot be reached")


def write_checkpoint(folder: Path, *, content: str = "weights", **config: object) -> Path:
    """Write a folder that passes for a checkpoint: one tensor of bytes, a configuration and a tokenizer file."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(defaults | config), encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    data = content.encode()
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return folder
