"""Forms batches of similar length."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


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
