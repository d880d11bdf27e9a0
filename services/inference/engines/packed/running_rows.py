"""The rows that are generated together: what each has for itself, and the blocks that several of them follow."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import torch

from services.inference.engines.packed.passes import SharedRows, StepPass
from services.inference.engines.packed.prefix_cache import Block
from services.inference.engines.packed.row_store import RowStore

_LONGEST_OWN_BLOCK: Final = 256
"""Tokens; a longer block is attended to by itself even if one row follows it, because whatever rows have for
themselves is computed as one product that is as wide as the longest of them."""


class RunningRows:
    """Rows numbered from 0 without gaps.

    Args:
        device: where the model lives.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._store = RowStore()
        self._paths: list[list[Block]] = []
        self._shared: list[SharedRows] | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of what the rows have for themselves."""
        return self._store.num_bytes

    def append(self, contexts: Sequence[Sequence[Block]]) -> None:
        """Add a row behind each context. Short blocks that no other row follows are copied into the row."""
        uses = Counter(id(block) for path in (*self._paths, *contexts) for block in path)
        paths = [
            [block for block in context if uses[id(block)] > 1 or block.num_tokens > _LONGEST_OWN_BLOCK]
            for context in contexts
        ]
        self._store.append(
            [
                [block.layers for block in context if block not in path]
                for context, path in zip(contexts, paths, strict=True)
            ],
            like=contexts[0][-1].layers,
        )
        # Behind what may run out of memory, so that the rows that were there stay as they are.
        self._paths += paths
        self._shared = None

    def positions(self) -> torch.Tensor:
        """Return the position of every row's next token, int64 [rows]."""
        counts = [
            own + sum(block.num_tokens for block in path)
            for own, path in zip(self._store.lengths, self._paths, strict=True)
        ]
        return torch.tensor(counts, device=self._device)

    def begin_step(self) -> StepPass:
        """Return the attention of one more token in every row."""
        if self._shared is None:
            self._shared = self._find_shared()
        return StepPass(self._store, self._shared)

    def remove(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Forget rows; return the moves (from, to) by which the others stay without gaps, in order."""
        moves = self._store.remove(rows)
        for source, target in moves:
            self._paths[target] = self._paths[source]
        del self._paths[len(self._store.lengths) :]
        self._shared = None
        return moves

    def _find_shared(self) -> list[SharedRows]:
        followers: dict[Block, list[int]] = {}
        for row, path in enumerate(self._paths):
            for block in path:
                followers.setdefault(block, []).append(row)
        return [
            SharedRows(block, slice(None) if len(rows) == len(self._paths) else torch.tensor(rows, device=self._device))
            for block, rows in followers.items()
        ]
