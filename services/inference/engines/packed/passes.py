"""Attention of the two kinds of passes: packed segments, and one new token for every running row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.inference.engines.packed.attention import attend_dense, merge
from services.inference.engines.packed.prefix_cache import Block, Layer, copy_tokens
from services.inference.engines.packed.row_store import RowStore
from services.inference.engines.packed.segments import Layout, PaddedGroup


class PassAbandonedError(Exception):
    """Everybody who waits for this pass gave up while it was computed."""


class SegmentPass:
    """Attends for packed segments and keeps their new keys and values.

    Args:
        layout: the row.
        is_abandoned: asked at every layer; true ends the pass.
    """

    def __init__(self, layout: Layout, is_abandoned: Callable[[], bool]) -> None:
        self._layout = layout
        self._is_abandoned = is_abandoned
        self._layers: dict[int, Layer] = {}

    def block(self, start: int, end: int) -> Block:
        """Copy the keys and values of some positions, once the pass is through."""
        layers = [self._layers[number] for number in sorted(self._layers)]
        return copy_tokens(layers, start, end)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """See ``AttentionPass``.

        Raises:
            PassAbandonedError: nobody waits any more.
        """
        if self._is_abandoned():
            raise PassAbandonedError
        self._layers[layer] = (key, value)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        normaliser = query.new_empty(query.shape[:2], dtype=torch.float32)
        for group in self._layout.groups:
            _attend_group(group, query, key, value, scale, output, normaliser)
        for part in self._layout.long_stems:
            own = attend_dense(
                query[None, :, part], key[None, :, part], value[None, :, part], scale=scale, is_causal=True
            )
            output[:, part], normaliser[:, part] = own[0][0], own[1][0]
        for part, stem in self._layout.cross:
            _merge_into(output, normaliser, part, query, (key[:, stem], value[:, stem]), scale)
        for part, block in self._layout.shared:
            _merge_into(output, normaliser, part, query, block.layers[layer], scale)
        return output


class StepPass:
    """Attends for one new token of every running row, and stores that token's keys and values.

    Args:
        rows: the rows' own keys and values.
        shared: blocks that several rows follow, with those rows.
    """

    def __init__(self, rows: RowStore, shared: Sequence["SharedRows"]) -> None:
        self._rows = rows
        self._shared = shared
        self._mask = rows.begin_step()

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """See ``AttentionPass``."""
        keys, values = self._rows.write(layer, key, value)
        own, own_normaliser = attend_dense(
            query.transpose(0, 1).unsqueeze(2), keys, values, scale=scale, mask=self._mask
        )
        output = own[:, :, 0].transpose(0, 1).contiguous()
        normaliser = own_normaliser[:, :, 0].transpose(0, 1).contiguous()
        for each in self._shared:
            _merge_into(output, normaliser, each.rows, query, each.block.layers[layer], scale)
        return output


@dataclass(frozen=True, slots=True)
class SharedRows:
    """A block and the running rows that follow it: all of them, or those of an index."""

    block: Block
    rows: slice | torch.Tensor


def _attend_group(
    group: PaddedGroup,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    output: torch.Tensor,
    normaliser: torch.Tensor,
) -> None:
    own, own_normaliser = attend_dense(
        *(tensor[:, group.index].transpose(0, 1) for tensor in (query, key, value)),
        scale=scale,
        mask=None if group.mask is None else group.mask.to(query.dtype),
        is_causal=group.mask is None,
    )
    run, place = group.is_token
    output[:, group.where] = own.transpose(0, 1)[:, run, place]
    normaliser[:, group.where] = own_normaliser.transpose(0, 1)[:, run, place]


def _merge_into(
    output: torch.Tensor,
    normaliser: torch.Tensor,
    part: slice | torch.Tensor,
    query: torch.Tensor,
    layer: Layer,
    scale: float | None,
) -> None:
    other, other_normaliser = attend_dense(query[None, :, part], layer[0][None], layer[1][None], scale=scale)
    output[:, part], normaliser[:, part] = merge(output[:, part], normaliser[:, part], other[0], other_normaliser[0])
