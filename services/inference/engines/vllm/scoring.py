"""Log-likelihoods of continuations by vLLM; every token is computed once.

A continuation but for its last token is prefilled behind its context, which comes from vLLM's prefix cache: its tokens
are scored as prompt tokens, its last one as a candidate for the next token. So single-token continuations of a context
are one request, whatever their number. vLLM itself lets requests for prompt scores skip the prefix cache, because
tokens from the cache have no score: here only the continuation's scores are wanted, and those few that lie in a cached
block are asked for apart.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.inference.engines.context_group import ContextGroup, ContinuationResult
from services.inference.engines.vllm.token_engine import (
    MAX_NEXT_IDS,
    Adapter,
    ScoredPrompt,
    ScoringJob,
    TokenEngine,
    TokenScore,
)

_MOST_SINGLE_REQUESTS: Final = 4
"""Missing scores that are asked for one by one; for more, the prompt is computed again without the cache."""

Tokens = tuple[int, ...]


async def score_group(engine: TokenEngine, group: ContextGroup, adapter: Adapter | None) -> int:
    """Score the continuations of one context; fills in ``results``.

    Returns:
        The tokens of the context that came from the prefix cache in the first request for it.

    Raises:
        InferenceFailure: the engine is gone.
    """
    context = tuple(group.context)
    wanted: dict[Tokens, set[int]] = {}
    for _, continuation in group.members:
        wanted.setdefault(context + tuple(continuation[:-1]), set()).add(continuation[-1])
    scorer = _GroupScorer(engine, adapter, len(context))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = {
                prompt: tasks.create_task(scorer.scores(prompt, sorted(ids))) for prompt, ids in sorted(wanted.items())
            }
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    for index, continuation in group.members:
        scored = running[context + tuple(continuation[:-1])].result()
        tokens = [*scored.of_continuation, scored.next_scores[continuation[-1]]]
        group.results[index] = ContinuationResult(
            sum(each.log_probability for each in tokens), all(each.is_greedy for each in tokens)
        )
    return min((task.result().num_cached_tokens for task in running.values()), default=0)


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores of a prompt's tokens behind the context, and of the candidates for the next."""

    of_continuation: Sequence[TokenScore]
    next_scores: Mapping[int, TokenScore]
    num_cached_tokens: int


@dataclass(frozen=True, slots=True)
class _GroupScorer:
    engine: TokenEngine
    adapter: Adapter | None
    context_length: int

    async def scores(self, prompt: Tokens, next_ids: Sequence[int]) -> _Scores:
        """Score what lies behind the context."""
        first, *more = _chunks(next_ids)
        positions = range(self.context_length, len(prompt))
        scored = await self._score(prompt, first, wants_prompt=bool(positions))
        next_scores = dict(scored.next_scores)
        for chunk in more:
            next_scores |= (await self._score(prompt, chunk)).next_scores
        known = dict(scored.prompt_scores)
        missing = [position for position in positions if position not in known]
        if len(missing) > _MOST_SINGLE_REQUESTS:
            again = await self._score(prompt, first, wants_prompt=True, may_read_cache=False)
            known |= again.prompt_scores
        elif missing:
            singles = await asyncio.gather(*(self._single(prompt, position) for position in missing))
            known |= dict(zip(missing, singles, strict=True))
        return _Scores([known[position] for position in positions], next_scores, scored.num_cached_tokens)

    async def _single(self, prompt: Tokens, position: int) -> TokenScore:
        token = prompt[position]
        return (await self._score(prompt[:position], [token])).next_scores[token]

    async def _score(
        self, prompt: Tokens, next_ids: Sequence[int], *, wants_prompt: bool = False, may_read_cache: bool = True
    ) -> ScoredPrompt:
        return await self.engine.score(ScoringJob(prompt, next_ids, wants_prompt, may_read_cache, self.adapter))


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + MAX_NEXT_IDS] for start in range(0, len(ids), MAX_NEXT_IDS))
