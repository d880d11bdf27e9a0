"""Longest common subsequences of token sequences, a machine word of cells at a time.

The table of lengths is kept as Hyyrö's bit vectors (2004): row ``i`` is an integer whose bit ``j`` is 0 where the
length grows from column ``j`` to ``j + 1``. Python's integers do a row in a few operations.
"""

from collections.abc import Hashable, Iterator, Sequence


def lcs_length(reference: Sequence[Hashable], candidate: Sequence[Hashable]) -> int:
    """Return the length of a longest common subsequence."""
    last = (1 << len(candidate)) - 1
    for row in _rows(reference, candidate):
        last = row
    return _length(last, len(candidate))


def lcs_positions(reference: Sequence[Hashable], candidate: Sequence[Hashable]) -> set[int]:
    """Return the positions in ``reference`` of one longest common subsequence: the one that rouge-score reads out.

    From the end of both: equal tokens belong to it; otherwise the last token of the reference is dropped, unless only
    dropping the candidate's keeps the length.
    """
    rows = [(1 << len(candidate)) - 1, *_rows(reference, candidate)]
    positions = set()
    i, j = len(reference), len(candidate)
    while i > 0 and j > 0:
        if reference[i - 1] == candidate[j - 1]:
            positions.add(i - 1)
            i, j = i - 1, j - 1
        elif _length(rows[i], j - 1) > _length(rows[i - 1], j):
            j -= 1
        else:
            i -= 1
    return positions


def _rows(reference: Sequence[Hashable], candidate: Sequence[Hashable]) -> Iterator[int]:
    everything = (1 << len(candidate)) - 1
    places: dict[Hashable, int] = {}
    for index, token in enumerate(candidate):
        places[token] = places.get(token, 0) | (1 << index)
    row = everything
    for token in reference:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & everything
        yield row


def _length(row: int, columns: int) -> int:
    return columns - (row & ((1 << columns) - 1)).bit_count()
