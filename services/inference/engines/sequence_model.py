"""The seam between the scheduler and the ways of computing sequences of tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from services.inference.engines.context_group import ContextGroup


@dataclass(slots=True)
class TokenCounts:
    """What a model has computed since it was loaded, in tokens.

    Attributes:
        computed: of prompts, contexts and continuations, padding not included.
        cached: that were needed and taken from the prefix cache or from a neighbour in the same batch.
        padding: computed for nothing; in the packed model only attention pads, the linear layers never do.
    """

    computed: int = 0
    cached: int = 0
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Contexts that are computed to their end.

    Attributes:
        groups: the contexts; none after a pass that finished none.
        logits: behind the last token of each, float32 [contexts, vocabulary].
        keep: makes the contexts with the given indices running rows, in that order behind those that run; if it
            raises, those that run are as they were.
    """

    groups: Sequence[ContextGroup]
    logits: torch.Tensor
    keep: Callable[[Sequence[int]], None]


class SequenceModel(Protocol):
    """Computes contexts, continuations and running rows of one checkpoint; used by the engine's thread only.

    ``prefill`` and ``score`` work while they are iterated, one pass a step, and leave out contexts whose callers
    give up meanwhile.
    """

    @property
    def counts(self) -> TokenCounts:
        """What was computed so far."""

    @property
    def kv_bytes(self) -> int:
        """Memory of all cached keys and values."""

    def cached_tokens(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of a prompt would not take memory of their own."""

    def prefill(self, groups: Sequence[ContextGroup]) -> Iterator[Prefilled]:
        """Compute contexts whose next token is wanted."""

    def score(self, groups: Sequence[ContextGroup]) -> Iterator[Sequence[ContextGroup]]:
        """Score continuations; gives the groups that became complete."""

    def decode(self, last_tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to every running row; return the logits behind it, float32 [rows, vocabulary]."""

    def remove_rows(self, rows: Sequence[int]) -> Sequence[tuple[int, int]]:
        """Forget running rows; return the moves (from, to) by which the others stay without gaps, in order."""

    def forget_rows(self) -> None:
        """Forget all running rows."""
