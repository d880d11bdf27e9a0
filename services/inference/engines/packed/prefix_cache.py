"""Keys and values of prompts seen before, shared by every later prompt that begins with the same tokens.

A radix tree over token ids: a node holds the keys and values of a run of tokens that follows its parent's. Bounded in
bytes; what was not used for longest goes first. Blocks are immutable, so whoever computes with one keeps it alive
whatever the tree forgets meanwhile.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

Layer = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, each [key-value heads, tokens, head size]."""

MIN_SHARED_TOKENS: Final = 16
"""A shorter beginning in common is computed twice: telling it apart costs more than it saves."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Keys and values of consecutive tokens, positions included, as every layer computed them."""

    layers: Sequence[Layer]
    num_tokens: int

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for layer in self.layers for tensor in layer)

    def part(self, start: int, end: int) -> "Block":
        """Copy some of the tokens, so that the rest can be freed."""
        return copy_tokens(self.layers, start, end)


def copy_tokens(layers: Sequence[Layer], start: int, end: int) -> Block:
    """Copy some positions out of keys and values that hold more."""
    return Block([(keys[:, start:end].clone(), values[:, start:end].clone()) for keys, values in layers], end - start)


def join_blocks(blocks: Sequence[Block]) -> Block:
    """Put consecutive blocks together."""
    if len(blocks) == 1:
        return blocks[0]
    layers = [
        (torch.cat([keys for keys, _ in parts], dim=1), torch.cat([values for _, values in parts], dim=1))
        for parts in zip(*(block.layers for block in blocks), strict=True)
    ]
    return Block(layers, sum(block.num_tokens for block in blocks))


@dataclass(slots=True, eq=False)
class _Node:
    tokens: tuple[int, ...]
    block: Block
    parent: "_Node | None"
    children: dict[int, "_Node"] = field(default_factory=dict)


class PrefixCache:
    """The tree of one model; used by the engine's thread only.

    Args:
        max_bytes: bound on the tensors that the tree holds.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._roots: dict[int, _Node] = {}
        # Oldest use first. A node is always used after its children, so the first one has none.
        self._by_age: OrderedDict[_Node, None] = OrderedDict()
        self._bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes in use."""
        return self._bytes

    @property
    def max_bytes(self) -> int:
        """Bound on ``num_bytes``."""
        return self._max_bytes

    def match(self, tokens: Sequence[int], *, limit: int) -> tuple[list[Block], int]:
        """Return the blocks of the longest known beginning of ``tokens[:limit]``, and its length."""
        path, matched = self._walk(tuple(tokens[:limit]))
        self._touch(path[-1] if path else None)
        return [node.block for node in path], matched

    def matched_tokens(self, tokens: Sequence[int]) -> int:
        """Return the length of the longest known beginning, and leave the tree as it is."""
        matched = 0
        children = self._roots
        while matched < len(tokens) and (node := children.get(tokens[matched])) is not None:
            common = _common_length(node.tokens, tuple(tokens[matched : matched + len(node.tokens)]))
            if common < len(node.tokens):
                return matched + (common if common >= MIN_SHARED_TOKENS else 0)
            matched += common
            children = node.children
        return matched

    def insert(self, tokens: Sequence[int], start: int, block: Block) -> None:
        """Add the block of ``tokens[start:]``; nothing happens if the tree no longer holds what comes before.

        What is in the tree already stays; a block that exceeds the bound alone is not kept.
        """
        key = tuple(tokens)
        path, matched = self._walk(key)
        fresh = len(key) - matched
        if matched < start or fresh < MIN_SHARED_TOKENS:
            return
        own = block if matched == start else block.part(matched - start, block.num_tokens)
        if own.num_bytes > self._max_bytes:
            return
        parent = path[-1] if path else None
        siblings = self._roots if parent is None else parent.children
        if key[matched] in siblings:
            # They part after fewer tokens than are worth a node of their own.
            return
        node = _Node(key[matched:], own, parent)
        siblings[key[matched]] = node
        self._bytes += own.num_bytes
        self._touch(node)
        self._evict()

    def clear(self) -> None:
        """Forget everything."""
        self._roots.clear()
        self._by_age.clear()
        self._bytes = 0

    def _walk(self, tokens: tuple[int, ...]) -> tuple[list[_Node], int]:
        path: list[_Node] = []
        matched = 0
        children = self._roots
        while matched < len(tokens) and (node := children.get(tokens[matched])) is not None:
            common = _common_length(node.tokens, tokens[matched : matched + len(node.tokens)])
            if common < len(node.tokens):
                if common < MIN_SHARED_TOKENS or len(node.tokens) - common < 1:
                    break
                node = self._split(node, common)
            path.append(node)
            matched += common
            children = node.children
        return path, matched

    def _split(self, node: _Node, length: int) -> _Node:
        """Cut a node in two and return the first half."""
        before = node.block.num_bytes
        # Both copies first: where there is no memory for them, the tree stays as it is.
        first, second = node.block.part(0, length), node.block.part(length, len(node.tokens))
        head = _Node(node.tokens[:length], first, node.parent)
        siblings = self._roots if node.parent is None else node.parent.children
        siblings[head.tokens[0]] = head
        node.block = second
        node.tokens = node.tokens[length:]
        node.parent = head
        head.children[node.tokens[0]] = node
        self._by_age[head] = None
        self._bytes += head.block.num_bytes + node.block.num_bytes - before
        return head

    def _touch(self, node: _Node | None) -> None:
        while node is not None:
            self._by_age[node] = None
            self._by_age.move_to_end(node)
            node = node.parent

    def _evict(self) -> None:
        while self._bytes > self._max_bytes:
            node, _ = self._by_age.popitem(last=False)
            siblings = self._roots if node.parent is None else node.parent.children
            del siblings[node.tokens[0]]
            self._bytes -= node.block.num_bytes


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    if first == second:
        return len(first)
    shorter = min(len(first), len(second))
    return next((at for at in range(shorter) if first[at] != second[at]), shorter)
