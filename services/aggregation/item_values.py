"""Values of many items in little memory."""

from array import array
from collections.abc import Collection, Iterator
from itertools import chain, repeat
from typing import Final

_MOST_DIFFERENT: Final = 1024


class ItemValues(Collection[float]):
    """Values that are added one by one, in no order: of most metrics, a few that very many items share.

    Holds a count for each of the first 1024 different ones, and 8 bytes for each value that is none of these.
    """

    def __init__(self) -> None:
        self._counts: dict[float, int] = {}
        self._others = array("d")
        self._length = 0

    def add(self, value: float) -> None:
        """Take the next value."""
        self._length += 1
        count = self._counts.get(value)
        if count is not None or len(self._counts) < _MOST_DIFFERENT:
            self._counts[value] = (count or 0) + 1
        else:
            self._others.append(value)

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        return not self._others and all(value in (0.0, 1.0) for value in self._counts)

    @property
    def is_within_unit(self) -> bool:
        """Whether every value is from 0 to 1."""
        return all(0.0 <= value <= 1.0 for value in chain(self._counts, self._others))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[float]:
        return chain(chain.from_iterable(repeat(value, count) for value, count in self._counts.items()), self._others)

    def __contains__(self, value: object) -> bool:
        return value in self._counts or value in self._others
