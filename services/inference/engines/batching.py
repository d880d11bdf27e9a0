"""Forms batches of similar length."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

Item = TypeVar("Item")

LENGTH_STEP: Final = 16
"""Texts are padded to a multiple of so many tokens."""
PASS_TOKENS: Final = 32
"""What a forward pass costs beside its tokens, in tokens: about 2 ms of a small encoder on two cores."""


def padded_batches(items: Iterable[Item], size: Callable[[Item], int], max_tokens: int) -> list[list[Item]]:
    """Sort by size and cut into batches whose padded token count stays within ``max_tokens``.

    An item that exceeds it alone gets a batch of its own.
    """
    batches: list[list[Item]] = []
    for item in sorted(items, key=size):
        # Ascending, so the newest item is the longest and decides the padding.
        if batches and (len(batches[-1]) + 1) * size(item) <= max_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


@dataclass(frozen=True, slots=True)
class AlikeTexts:
    """Texts that are computed together.

    Attributes:
        rows: their indices, shortest first.
        padded_tokens: what each is padded to.
    """

    rows: Sequence[int]
    padded_tokens: int


def alike_batches(lengths: Sequence[int], max_tokens: int, longest: int) -> list[AlikeTexts]:
    """Divide texts into forward passes so that the least is computed, padding included.

    Lengths are rounded up to a multiple of ``LENGTH_STEP``: a runtime that prepares kernels or buffers for every shape
    then meets few of them. Few texts of very different lengths are several passes, because padding a word to a page
    costs more than a pass. The cheapest division of the sorted lengths into runs is found by dynamic programming.

    Args:
        lengths: tokens of each text.
        max_tokens: of one pass, padding included; a text that is longer has a pass of its own.
        longest: what the model reads at most; no text is padded beyond.
    """
    rows_of: dict[int, list[int]] = {}
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens = max(1, lengths[row])
        padded = max(tokens, min(longest, -(-tokens // LENGTH_STEP) * LENGTH_STEP))
        rows_of.setdefault(padded, []).append(row)
    steps = sorted(rows_of)
    cheapest: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(steps) + 1):
        cost, texts = float("inf"), 0
        best = (cost, 0)
        for start in range(end - 1, -1, -1):
            texts += len(rows_of[steps[start]])
            cost = cheapest[start][0] + PASS_TOKENS + texts * steps[end - 1]
            best = min(best, (cost, start))
        cheapest.append(best)
    batches: list[AlikeTexts] = []
    end = len(steps)
    while end:
        start, padded = cheapest[end][1], steps[end - 1]
        rows = [row for step in steps[start:end] for row in rows_of[step]]
        most = max(1, max_tokens // padded)
        batches += [AlikeTexts(rows[at : at + most], padded) for at in range(0, len(rows), most)]
        end = start
    return batches[::-1]
