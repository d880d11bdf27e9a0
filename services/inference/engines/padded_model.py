"""A causal language model that computes padded batches: for attention that the packed model does not know.

That is attention with sliding windows, soft caps or biases of its own. Nothing is remembered between requests here;
only the continuations of one request share their context.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from transformers.cache_utils import DynamicCache

from services.inference.engines.batching import padded_batches
from services.inference.engines.context_group import ContextGroup
from services.inference.engines.continuation_scoring import score_groups
from services.inference.engines.device_clock import finished_at
from services.inference.engines.forward import ForwardPass
from services.inference.engines.kv_cache import RowCache
from services.inference.engines.sequence_model import Prefilled, TokenCounts


class PaddedModel:
    """Implements ``SequenceModel`` for any model that keeps plain keys and values.

    Args:
        forward: the model.
        max_batched_tokens: tokens, padding included, of one pass.
        kv_tokens: bound on the cached tokens, padding included, of one pass over continuations.
        kv_token_bytes: memory of one token's keys and values.
    """

    def __init__(self, forward: ForwardPass, *, max_batched_tokens: int, kv_tokens: int, kv_token_bytes: int) -> None:
        self._forward = forward
        self._max_batched_tokens = max_batched_tokens
        self._kv_tokens = kv_tokens
        self._kv_token_bytes = kv_token_bytes
        self._cache = RowCache()
        self._counts = TokenCounts()

    @property
    def counts(self) -> TokenCounts:
        """See ``SequenceModel``."""
        return self._counts

    @property
    def kv_bytes(self) -> int:
        """See ``SequenceModel``."""
        return len(self._cache.lengths) * self._cache.time_tokens * self._kv_token_bytes

    def cached_tokens(self, prompt: Sequence[int]) -> int:
        """See ``SequenceModel``; nothing is shared here."""
        return 0

    def prefill(self, groups: Sequence[ContextGroup]) -> Iterator[Prefilled]:
        """See ``SequenceModel``."""
        for batch in self._batches(groups):
            with _booked(self._counts, batch, self._forward.device):
                logits, computed = self._forward.prefill([group.context for group in batch])
            yield Prefilled(batch, logits, partial(self._keep, batch, computed))

    def score(self, groups: Sequence[ContextGroup]) -> Iterator[Sequence[ContextGroup]]:
        """See ``SequenceModel``."""
        for batch in self._batches(groups):
            with _booked(self._counts, batch, self._forward.device):
                score_groups(self._forward, batch, self._kv_tokens)
            yield batch

    def decode(self, last_tokens: Sequence[int]) -> torch.Tensor:
        """See ``SequenceModel``."""
        return self._forward.decode(last_tokens, self._cache)

    def remove_rows(self, rows: Sequence[int]) -> Sequence[tuple[int, int]]:
        """See ``SequenceModel``."""
        return self._cache.remove_rows(rows)

    def forget_rows(self) -> None:
        """See ``SequenceModel``."""
        self._cache = RowCache()

    def _keep(self, batch: Sequence[ContextGroup], computed: DynamicCache, rows: Sequence[int]) -> None:
        if len(rows) < len(batch):
            computed.batch_select_indices(torch.tensor(rows))
        self._cache.append_rows(computed, [len(batch[row].context) for row in rows])

    def _batches(self, groups: Sequence[ContextGroup]) -> Iterator[Sequence[ContextGroup]]:
        for batch in padded_batches(groups, lambda each: len(each.context), self._max_batched_tokens):
            live = [group for group in batch if not group.was_cancelled()]
            if live:
                yield live


@contextmanager
def _booked(counts: TokenCounts, batch: Sequence[ContextGroup], device: torch.device) -> Iterator[None]:
    """Book the time and the tokens of a batch."""
    started = time.perf_counter()
    yield
    seconds = finished_at(device) - started
    num_tokens = sum(group.num_tokens for group in batch)
    longest = max(len(group.context) for group in batch)
    counts.computed += num_tokens
    counts.padding += sum(longest - len(group.context) for group in batch)
    for group in batch:
        group.engine_seconds += seconds * group.num_tokens / num_tokens
