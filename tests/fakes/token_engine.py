"""A fake vLLM: made-up but consistent log-probabilities, and a prefix cache of whole blocks as vLLM's."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence

from services.inference.engines.vllm.token_engine import (
    GeneratedTokens,
    GenerationJob,
    ScoredPrompt,
    ScoringJob,
    TokenScore,
    crashed,
)

BLOCK_TOKENS = 4
VOCABULARY = 50


class FakeTokenEngine:
    """Scores a token by a hash of what is before it, of the weights in place and of the adapter."""

    def __init__(self, weights: str = "a") -> None:
        self.weights = weights
        self.cached: set[tuple[int, ...]] = set()
        self.jobs: list[ScoringJob] = []
        self.computed_tokens = 0
        self.reloads: list[str] = []
        self.in_flight = 0
        self.most_in_flight: dict[str, int] = {}
        self.reload_failure: Exception | None = None
        self.during_reload: Callable[[], object] = lambda: None
        self.is_crashed = False
        self.is_closed = False
        self.aborted = 0
        self.gate: asyncio.Event | None = None

    def score_of(self, before: Sequence[int], token: int, adapter: str = "") -> TokenScore:
        seed = f"{self.weights}/{adapter}/{tuple(before)}".encode()
        scores = [hashlib.sha256(seed + bytes([each])).digest()[0] for each in range(VOCABULARY)]
        return TokenScore(-1.0 - scores[token] / 256, scores.index(min(scores)) == token)

    async def score(self, job: ScoringJob) -> ScoredPrompt:
        self._check()
        self.jobs.append(job)
        prompt, adapter = tuple(job.prompt), job.adapter.name if job.adapter else ""
        blocks = [prompt[: end + BLOCK_TOKENS] for end in range(0, len(prompt) - BLOCK_TOKENS, BLOCK_TOKENS)]
        cached = 0
        for block in blocks:
            if block not in self.cached or not job.may_read_cache:
                break
            cached = len(block)
        self.cached.update([*blocks, prompt] if len(prompt) % BLOCK_TOKENS == 0 else blocks)
        self.computed_tokens += len(prompt) - cached
        await asyncio.sleep(0)
        positions = range(cached + 1, len(prompt)) if job.wants_prompt else ()
        return ScoredPrompt(
            next_scores={each: self.score_of(prompt, each, adapter) for each in job.next_ids},
            prompt_scores={each: self.score_of(prompt[:each], prompt[each], adapter) for each in positions},
            num_cached_tokens=cached,
        )

    async def generate(self, job: GenerationJob) -> AsyncGenerator[GeneratedTokens, None]:
        self._check()
        self.in_flight += 1
        self.most_in_flight[self.weights] = max(self.in_flight, self.most_in_flight.get(self.weights, 0))
        try:
            if self.gate is not None:
                await self.gate.wait()
            ids = [ord(self.weights)] * job.max_tokens
            chances = [-0.5] * len(ids) if job.wants_log_probabilities else []
            if not job.in_pieces:
                yield GeneratedTokens(ids, chances, 0)
                return
            for index, token in enumerate(ids):
                await asyncio.sleep(0)
                yield GeneratedTokens([token], chances[index : index + 1], 0)
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1

    async def reload(self, path: str) -> None:
        self._check()
        assert not self.in_flight
        self.weights = "?"
        if self.reload_failure is not None:
            raise self.reload_failure
        self.during_reload()
        self.reloads.append(path)
        self.cached.clear()
        self.weights = path

    def close(self) -> None:
        self.is_closed = True

    def _check(self) -> None:
        if self.is_crashed:
            raise crashed("the fake has died")
