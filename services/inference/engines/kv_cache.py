"""Cached keys and values of the sequences that are generated together.

Rows share one time axis and end at the same position; shorter ones start later. A new token is written in place, a
finished row is overwritten by the last one, and the axis is shortened once its front belongs to nobody. transformers'
own dynamic cache copies everything for every token instead.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from services.inference.engines.buffer_sizes import row_capacity, token_capacity

_SPARE_TOKENS: Final = 64

RowBuffers = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each [capacity rows, heads, capacity tokens, head size]."""


class RowLayer(DynamicLayer):
    """One layer's buffers, [capacity rows, heads, capacity tokens, head size], of which a corner is in use."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        self._key_buffer: torch.Tensor | None = None
        self._value_buffer: torch.Tensor | None = None
        self._rows = 0
        self._tokens = 0

    def get_seq_length(self) -> int:
        """Return the length of the time axis in tokens."""
        return self._tokens

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens of all rows behind the old ones; return views of everything in use."""
        added = key_states.shape[-2]
        # Keys and values apart, so that the old buffer of one is free before the other grows.
        self._key_buffer = keys = self._grown(self._key_buffer, key_states, self._rows, self._tokens + added)
        self._value_buffer = values = self._grown(self._value_buffer, value_states, self._rows, self._tokens + added)
        keys[: self._rows, :, self._tokens : self._tokens + added] = key_states
        values[: self._rows, :, self._tokens : self._tokens + added] = value_states
        self._tokens += added
        return keys[: self._rows, :, : self._tokens], values[: self._rows, :, : self._tokens]

    def room_for(self, new_keys: torch.Tensor, new_values: torch.Tensor) -> RowBuffers:
        """Return buffers for more rows, computed apart, with the old ones in their place; changes nothing here."""
        rows, tokens = self._rows + new_keys.shape[0], max(new_keys.shape[-2], self._tokens)
        return (
            self._grown(self._key_buffer, new_keys, rows, tokens, shift=tokens - self._tokens),
            self._grown(self._value_buffer, new_values, rows, tokens, shift=tokens - self._tokens),
        )

    def append_rows(self, buffers: RowBuffers, new_keys: torch.Tensor, new_values: torch.Tensor) -> None:
        """Take over the buffers of ``room_for`` and add its rows, aligned at the end of the time axis."""
        added, length = new_keys.shape[0], new_keys.shape[-2]
        rows, tokens = self._rows + added, max(length, self._tokens)
        for buffer, new in zip(buffers, (new_keys, new_values), strict=True):
            buffer[self._rows : rows, :, tokens - length : tokens] = new
        self._key_buffer, self._value_buffer = buffers
        self._rows, self._tokens = rows, tokens

    def move_row(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for buffer in (self._key_buffer, self._value_buffer):
            if buffer is not None:
                buffer[target, :, : self._tokens] = buffer[source, :, : self._tokens]

    def shrink_rows(self, rows: int) -> None:
        """Forget all rows from ``rows`` on; without rows the memory is given back."""
        self._rows = rows
        if not rows:
            self._key_buffer = self._value_buffer = None
            self._tokens = 0

    def drop_front(self, tokens: int) -> None:
        """Forget the oldest positions of the time axis."""
        for buffer in (self._key_buffer, self._value_buffer):
            if buffer is not None:
                kept = buffer[: self._rows, :, tokens : self._tokens].clone()
                buffer[: self._rows, :, : self._tokens - tokens] = kept
        self._tokens -= tokens

    def _grown(
        self, buffer: torch.Tensor | None, like: torch.Tensor, rows: int, tokens: int, *, shift: int = 0
    ) -> torch.Tensor:
        """Return a buffer that holds ``rows`` × ``tokens``; what is in use is in it, ``shift`` tokens later."""
        old_rows, old_tokens = (0, 0) if buffer is None else (buffer.shape[0], buffer.shape[2])
        if buffer is not None and rows <= old_rows and tokens <= old_tokens and not (shift and self._rows):
            return buffer
        # Zeros, because a masked position still takes part in a product and must not be NaN.
        grown = like.new_zeros(
            (row_capacity(rows, old_rows), like.shape[1], token_capacity(tokens, old_tokens), like.shape[3])
        )
        if buffer is not None and self._rows:
            grown[: self._rows, :, shift : shift + self._tokens] = buffer[: self._rows, :, : self._tokens]
        return grown


class RowCache(Cache):
    """The cache of a running batch; rows are numbered from 0 without gaps."""

    def __init__(self) -> None:
        # One list for both, so that layers added here are the cache's.
        self._row_layers: list[RowLayer] = []
        super().__init__(layers=self._row_layers)  # type: ignore[arg-type]  # a list of a subtype is none of its base
        self._lengths: list[int] = []

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of every row."""
        return self._lengths

    @property
    def time_tokens(self) -> int:
        """Length of the shared time axis in tokens."""
        return self.get_seq_length()

    def append_rows(self, computed: DynamicCache, lengths: Sequence[int]) -> None:
        """Add rows from a left-padded prefill; ``lengths`` are their tokens without padding."""
        new = layer_tensors(computed)
        while len(self._row_layers) < len(new):
            self._row_layers.append(RowLayer())
        # All room first, so that rows which are there stay as they are when there is none.
        rooms = [own.room_for(keys, values) for own, (keys, values) in zip(self._row_layers, new, strict=True)]
        for own, room, (keys, values) in zip(self._row_layers, rooms, new, strict=True):
            own.append_rows(room, keys, values)
        self._lengths.extend(lengths)

    def note_step(self) -> None:
        """Record that every row grew by one token."""
        self._lengths = [length + 1 for length in self._lengths]

    def remove_rows(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Forget rows; return the moves (from, to) by which the others stay without gaps, in order."""
        moves: list[tuple[int, int]] = []
        count = len(self._lengths)
        for row in sorted(rows, reverse=True):
            count -= 1
            if row != count:
                moves.append((count, row))
                self._lengths[row] = self._lengths[count]
        self._lengths = self._lengths[:count]
        for layer in self._row_layers:
            for source, target in moves:
                layer.move_row(source, target)
            layer.shrink_rows(count)
        self._shorten()
        return moves

    def _shorten(self) -> None:
        unused = self.time_tokens - max(self._lengths, default=0)
        # Copying pays only once a good part of the axis is unused.
        if self._lengths and unused >= _SPARE_TOKENS and unused * 4 >= self.time_tokens:
            for layer in self._row_layers:
                layer.drop_front(unused)


def select_rows(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """Copy rows of a prefill's cache, repeats allowed, into a cache that can grow on its own."""
    selected = DynamicCache()
    for layer_index, (keys, values) in enumerate(layer_tensors(cache)):
        selected.update(keys.index_select(0, rows), values.index_select(0, rows), layer_index)
    return selected


def layer_tensors(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return keys and values of every layer, each [rows, heads, tokens, head size].

    Raises:
        TypeError: a layer keeps something else, or has not been computed.
    """
    tensors: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in cache.layers:
        if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
            raise TypeError(f"{type(layer).__name__} does not hold plain keys and values")
        tensors.append((layer.keys, layer.values))
    if not tensors:
        raise TypeError("the model left the cache empty")
    return tensors
