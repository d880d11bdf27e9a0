"""Keys and values that belong to one running row alone: the end of its prompt and what it generated.

Rows are numbered from 0 without gaps; a removed row's place is taken by the last one. Every row begins at position 0
of its buffer, so a new token is written in place and nothing moves while rows come and go.
"""

from collections.abc import Sequence

import torch

from services.inference.engines.buffer_sizes import row_capacity, token_capacity
from services.inference.engines.packed.prefix_cache import Layer


class RowStore:
    """Buffers of all running rows, one pair a layer: [capacity rows, key-value heads, capacity tokens, head size]."""

    def __init__(self) -> None:
        self._buffers: list[Layer] = []
        self._lengths: list[int] = []
        self._rows = torch.empty(0, dtype=torch.long)
        self._ends = torch.empty(0, dtype=torch.long)

    @property
    def lengths(self) -> Sequence[int]:
        """Own tokens of every row."""
        return self._lengths

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers."""
        return sum(tensor.numel() * tensor.element_size() for layer in self._buffers for tensor in layer)

    def append(self, rows: Sequence[Sequence[Sequence[Layer]]], *, like: Sequence[Layer]) -> None:
        """Add rows of parts; each part holds all layers of consecutive tokens, and ``like`` those of any tokens."""
        lengths = [sum(part[0][0].shape[1] for part in parts) for parts in rows]
        self._reserve(like, len(self._lengths) + len(rows), max(lengths) + 1)
        for row, parts in enumerate(rows, len(self._lengths)):
            at = 0
            for part in parts:
                added = part[0][0].shape[1]
                for (keys, values), (new_keys, new_values) in zip(self._buffers, part, strict=True):
                    keys[row, :, at : at + added] = new_keys
                    values[row, :, at : at + added] = new_values
                at += added
        self._lengths += lengths

    def begin_step(self) -> torch.Tensor:
        """Make room for one more token in every row.

        Returns:
            What is added to the scores of every row's own keys, float [rows, 1, 1, longest].
        """
        self._reserve(self._buffers, len(self._lengths), max(self._lengths) + 1)
        keys = self._buffers[0][0]
        self._rows = torch.arange(len(self._lengths), device=keys.device)
        self._ends = torch.tensor(self._lengths, device=keys.device)
        self._lengths = [length + 1 for length in self._lengths]
        time = torch.arange(max(self._lengths), device=keys.device)
        sees = time <= self._ends.unsqueeze(1)
        return torch.where(sees, 0.0, float("-inf")).to(keys.dtype)[:, None, None]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Layer:
        """Write the new token of every row, [key-value heads, rows, head size]; return what the rows hold now."""
        keys, values = self._buffers[layer]
        keys[self._rows, :, self._ends] = key.transpose(0, 1)
        values[self._rows, :, self._ends] = value.transpose(0, 1)
        count, longest = len(self._lengths), max(self._lengths)
        return keys[:count, :, :longest], values[:count, :, :longest]

    def remove(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Forget rows; return the moves (from, to) by which the others stay without gaps, in order."""
        moves: list[tuple[int, int]] = []
        for row in sorted(rows, reverse=True):
            last = len(self._lengths) - 1
            if row != last:
                moves.append((last, row))
                for tensor in (tensor for layer in self._buffers for tensor in layer):
                    tensor[row, :, : self._lengths[last]] = tensor[last, :, : self._lengths[last]]
                self._lengths[row] = self._lengths[last]
            self._lengths.pop()
        if not self._lengths:
            self._buffers = []
        return moves

    def _reserve(self, like: Sequence[Layer], rows: int, tokens: int) -> None:
        old_rows, old_tokens = (self._buffers[0][0].shape[0], self._buffers[0][0].shape[2]) if self._buffers else (0, 0)
        if rows <= old_rows and tokens <= old_tokens:
            return
        count, longest = len(self._lengths), max(self._lengths, default=0)
        new_rows, new_tokens = row_capacity(rows, old_rows), token_capacity(max(tokens, longest + 1), old_tokens)
        grown: list[Layer] = []
        for number, pair in enumerate(like):
            # Zeros, because a masked position still takes part in a product and must not be NaN.
            fresh = [tensor.new_zeros((new_rows, tensor.shape[-3], new_tokens, tensor.shape[-1])) for tensor in pair]
            if count:
                for new, old in zip(fresh, self._buffers[number], strict=True):
                    new[:count, :, :longest] = old[:count, :, :longest]
            grown.append((fresh[0], fresh[1]))
        self._buffers = grown
