"""What engines say that an answer cost, and what it costs at least while they say nothing."""

from collections.abc import Sequence
from dataclasses import replace

from services.generation.backend import EngineAnswer, EngineScores
from services.generation.requests import Prompt, TextPiece, Usage
from services.runtime.spending import least_tokens
from services.runtime.usage import Usage as FleetUsage


def characters_in(prompt: Prompt) -> int:
    """Return how long a prompt is, without what a chat template puts around its turns."""
    return len(prompt) if isinstance(prompt, str) else sum(len(turn.content) for turn in prompt)


def least_cost(prompt: Prompt, context_tokens: int) -> Usage:
    """Estimate the least that a request costs which an engine was asked and did not answer: its prompt, computed.

    Args:
        prompt: that the engine was given.
        context_tokens: longest prompt that the model reads; 0: unknown.
    """
    tokens = least_tokens(characters_in(prompt))
    if context_tokens:
        tokens = min(tokens, context_tokens)
    return Usage(tokens, 0, 0.0, computed_prompt_tokens=tokens)


def piece_cost(piece: TextPiece, before: Usage) -> Usage:
    """Return what an answer cost up to a piece of it.

    Args:
        piece: the piece.
        before: what it cost up to the piece before; of the first one, the least that it costs.
    """
    prompt_tokens = piece.prompt_tokens or before.prompt_tokens
    return _usage(
        prompt_tokens, piece.prefix_tokens, before.completion_tokens + piece.token_count, piece.engine_seconds
    )


def answer_cost(answer: EngineAnswer) -> Usage:
    """Return what an answer cost."""
    return _usage(answer.prompt_tokens, answer.prefix_tokens, answer.completion_tokens, answer.engine_seconds)


def scores_cost(scores: EngineScores) -> Usage:
    """Return what the scores of all continuations of a context cost."""
    tokens = sum(each.token_count for each in scores.scores)
    return _usage(scores.prompt_tokens, scores.prefix_tokens, tokens, scores.engine_seconds)


def together(costs: Sequence[Usage]) -> Usage:
    """Return what the samples of one request cost; its prompt tokens are counted once."""
    total = sum(costs[1:], costs[0])
    return replace(total, prompt_tokens=costs[0].prompt_tokens) if len(costs) > 1 else total


def fleet_usage(usage: Usage) -> FleetUsage:
    """Return a cost as all services write it; a part of a millionth of a dollar counts as one."""
    return FleetUsage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.engine_seconds,
        usage.computed_prompt_tokens,
        usage.computed_completion_tokens,
        usage.prefix_saved_tokens,
        usage.cache_saved_tokens,
        -(-usage.cost_nano_usd // 1000),
    )


def _usage(prompt_tokens: int, prefix_tokens: int, completion_tokens: int, engine_seconds: float) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        engine_seconds=engine_seconds,
        computed_prompt_tokens=prompt_tokens - prefix_tokens,
        computed_completion_tokens=completion_tokens,
        prefix_saved_tokens=prefix_tokens,
    )
