"""A context to compute, and the continuations that are scored behind it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Member = tuple[int, Sequence[int]]
"""Index of a continuation within its request, and its token ids."""


@dataclass(frozen=True, slots=True)
class ContinuationResult:
    """Score of one continuation: the sum of its log-probabilities, and whether all its tokens are the greedy ones."""

    log_likelihood: float
    is_greedy: bool


def never_cancelled() -> bool:
    """Say that somebody still waits."""
    return False


@dataclass(slots=True, eq=False)
class ContextGroup:
    """A context as the model sees it and the continuations that follow exactly it.

    Attributes:
        context: token ids, at least one.
        members: the continuations; none where only the next token is wanted.
        was_cancelled: whether nobody waits for it any more.
        results: of every continuation, by index; filled in.
        engine_seconds: its share of the engine's time; counted up.
        num_cached_tokens: tokens of the context that did not have to be computed for it; counted up.
    """

    context: Sequence[int]
    members: Sequence[Member] = ()
    was_cancelled: Callable[[], bool] = never_cancelled
    results: dict[int, ContinuationResult] = field(default_factory=dict)
    engine_seconds: float = 0.0
    num_cached_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that would have to be computed if nothing were shared."""
        return len(self.context) + sum(len(ids) - 1 for _, ids in self.members)


def has_numbers(group: ContextGroup) -> bool:
    """Return whether every score is a number; minus infinity is one, for a token that the model rules out."""
    return all(result.log_likelihood < math.inf for result in group.results.values())
