"""A causal language model that computes packed sequences behind shared prefixes."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from services.inference.engines.context_group import ContextGroup
from services.inference.engines.device_clock import finished_at
from services.inference.engines.packed.attention import PASS_ARGUMENT, AttentionPass
from services.inference.engines.packed.passes import PassAbandonedError, SegmentPass
from services.inference.engines.packed.planning import Piece, Plan
from services.inference.engines.packed.prefix_cache import Block, PrefixCache
from services.inference.engines.packed.running_rows import RunningRows
from services.inference.engines.packed.scoring import read_scores
from services.inference.engines.packed.segments import Layout, lay_out
from services.inference.engines.sequence_model import Prefilled, TokenCounts

_LOGIT_BYTES: Final = 1 << 28
"""Bound on the float32 logits of one pass, 256 MiB."""
_FEWEST_TOKENS: Final = 128
_FIRST_TOKENS: Final = 512
_PASS_SECONDS: Final = 0.4
"""What a pass should take at most: running rows wait for it, and so does a cancelled caller's successor."""
_RATE_MEMORY: Final = 0.7


@dataclass(frozen=True, slots=True)
class PackedLimits:
    """Bounds of a packed model.

    Attributes:
        max_batched_tokens: new tokens of one pass.
        prefix_bytes: memory of the prefix cache.
        vocabulary_size: width of the logits.
    """

    max_batched_tokens: int
    prefix_bytes: int
    vocabulary_size: int


@dataclass(slots=True)
class _Computed:
    """A pass that is through: its pieces, where each begins, its attention and the logits of the leaves."""

    pieces: Sequence[Piece] = ()
    starts: Sequence[int] = ()
    attention: SegmentPass | None = None
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))


class PackedModel:
    """Implements ``SequenceModel`` for models whose attention goes through transformers' attention interface.

    Args:
        model: a transformers causal language model that uses the packed attention implementation.
        device: where it lives.
        limits: bounds on memory and on a pass.
    """

    def __init__(self, model: Any, device: torch.device, limits: PackedLimits) -> None:
        self._model = model
        self._device = device
        self._limits = limits
        self._cache = PrefixCache(limits.prefix_bytes)
        self._rows = RunningRows(device)
        self._tokens_per_second = 0.0
        self._counts = TokenCounts()

    @property
    def counts(self) -> TokenCounts:
        """See ``SequenceModel``."""
        return self._counts

    @property
    def kv_bytes(self) -> int:
        """See ``SequenceModel``."""
        return self._cache.num_bytes + self._rows.num_bytes

    def cached_tokens(self, prompt: Sequence[int]) -> int:
        """See ``SequenceModel``."""
        return self._cache.matched_tokens(prompt[:-1])

    def prefill(self, groups: Sequence[ContextGroup]) -> Iterator[Prefilled]:
        """See ``SequenceModel``."""
        for computed in self._passes(groups):
            leaves = [at for at, piece in enumerate(computed.pieces) if piece.beginning is None]
            paths = [self._leaf_path(computed, at) for at in leaves]
            yield Prefilled(
                [computed.pieces[at].owners[0].group for at in leaves],
                computed.logits,
                partial(self._keep, paths),
            )

    def score(self, groups: Sequence[ContextGroup]) -> Iterator[Sequence[ContextGroup]]:
        """See ``SequenceModel``."""
        for computed in self._passes(groups):
            complete: list[ContextGroup] = []
            leaves = [at for at, piece in enumerate(computed.pieces) if piece.beginning is None]
            if leaves:
                read_scores([computed.pieces[at] for at in leaves], computed.logits)
            for at in leaves:
                self._leaf_path(computed, at)
                owner = computed.pieces[at].owners[0]
                if not owner.members:
                    complete.append(owner.group)
            yield complete

    def decode(self, last_tokens: Sequence[int]) -> torch.Tensor:
        """See ``SequenceModel``."""
        positions = self._rows.positions()
        ids = torch.tensor(last_tokens, device=self._device)
        return self._run(ids, positions, torch.arange(len(last_tokens), device=self._device), self._rows.begin_step())

    def remove_rows(self, rows: Sequence[int]) -> Sequence[tuple[int, int]]:
        """See ``SequenceModel``."""
        return self._rows.remove(rows)

    def forget_rows(self) -> None:
        """See ``SequenceModel``."""
        self._rows = RunningRows(self._device)

    def _keep(self, paths: Sequence[Sequence[Block]], kept: Sequence[int]) -> None:
        self._rows.append([paths[row] for row in kept])

    def _passes(self, groups: Sequence[ContextGroup]) -> Iterator[_Computed]:
        plan = Plan(groups, self._cache)
        self._counts.cached += sum(group.num_cached_tokens for group in groups)
        while pieces := plan.take(self._max_tokens(), _LOGIT_BYTES // (4 * self._limits.vocabulary_size)):
            try:
                computed = self._compute(pieces)
            except PassAbandonedError:
                # Everybody in it gave up; the plan drops them, and so does the scheduler.
                yield _Computed()
                continue
            for piece, start in zip(pieces, computed.starts, strict=True):
                if piece.beginning is not None and computed.attention is not None:
                    block = computed.attention.block(start, start + len(piece.segment.stem))
                    self._counts.cached += block.num_tokens * (len(piece.owners) - 1)
                    plan.go_on(piece.beginning, block)
            yield computed

    def _compute(self, pieces: Sequence[Piece]) -> _Computed:
        started = time.perf_counter()
        layout = lay_out([piece.segment for piece in pieces], self._device)
        attention = SegmentPass(layout, _all_gave_up(pieces))
        kept = _positions_to_keep(pieces, layout.starts)
        logits = self._run(
            layout.token_ids, layout.positions, torch.tensor(kept, dtype=torch.long, device=self._device), attention
        )
        self._book(pieces, layout, finished_at(self._device) - started)
        return _Computed(pieces, layout.starts, attention, logits)

    def _run(
        self, ids: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor, attention: AttentionPass
    ) -> torch.Tensor:
        output = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=kept,
            **{PASS_ARGUMENT: attention},
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def _book(self, pieces: Sequence[Piece], layout: Layout, seconds: float) -> None:
        num_tokens = len(layout.token_ids)
        self._counts.computed += num_tokens
        self._counts.padding += layout.num_padded_tokens
        for piece in pieces:
            share = seconds * piece.segment.num_tokens / num_tokens / len(piece.owners)
            for owner in piece.owners:
                owner.group.engine_seconds += share
        if num_tokens >= _FEWEST_TOKENS // 2:
            rate = num_tokens / seconds
            self._tokens_per_second = (
                _RATE_MEMORY * self._tokens_per_second + (1 - _RATE_MEMORY) * rate if self._tokens_per_second else rate
            )

    def _max_tokens(self) -> int:
        wanted = int(self._tokens_per_second * _PASS_SECONDS) or _FIRST_TOKENS
        return min(self._limits.max_batched_tokens, max(_FEWEST_TOKENS, wanted))

    def _leaf_path(self, computed: _Computed, at: int) -> list[Block]:
        """Return the blocks of a whole context, and remember its end for those that come later."""
        owner, start = computed.pieces[at].owners[0], computed.starts[at]
        assert computed.attention is not None
        block = computed.attention.block(start, start + len(owner.stem))
        self._cache.insert(owner.group.context, owner.matched, block)
        return [*owner.path, block]


def _positions_to_keep(pieces: Sequence[Piece], starts: Sequence[int]) -> list[int]:
    """Return where logits are read: at the end of every leaf's stem, and at each of its branches' tokens."""
    kept: list[int] = []
    for piece, start in zip(pieces, starts, strict=True):
        if piece.beginning is None:
            stem = len(piece.segment.stem)
            kept += range(start + stem - 1, start + piece.segment.num_tokens)
    return kept


def _all_gave_up(pieces: Sequence[Piece]) -> Callable[[], bool]:
    def ask() -> bool:
        return all(owner.group.was_cancelled() for piece in pieces for owner in piece.owners)

    return ask
