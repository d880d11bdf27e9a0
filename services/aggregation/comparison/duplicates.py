"""Items whose texts are nearly the same: they count twice, and leak between splits."""

import hashlib
import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_WORD: Final = re.compile(r"\w+")
_WORDS_A_SHINGLE: Final = 3
_TABLE_BITS: Final = 20
_PERMUTATIONS: Final = 128
_BANDS: Final = 32
_SEED: Final = 27_182_818
_FEWEST_COMMON: Final = 8
_COMMON_SHARE: Final = 0.002
_MOST_IN_A_BUCKET: Final = 50


@dataclass(frozen=True, slots=True)
class DuplicateGroups:
    """Which items belong together.

    Attributes:
        groups: of each item, numbered from 1; 0 for those that resemble none.
        similarities: to the nearest other item of the group; 0 without one.
    """

    groups: Sequence[int]
    similarities: Sequence[float]


class ShingleCounts:
    """In how many texts each run of three words occurs, in a table of fixed size.

    Few-shot examples and instructions stand in very many prompts: without them one sees what an item asks by itself.
    Two runs that fall on one place of the table count together, which can only make more of them common.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(1 << _TABLE_BITS, np.uint32)
        self._texts = 0

    def add(self, text: str) -> None:
        """Count one text."""
        # Unique, since an index that stands twice in an array is increased once or twice as numpy likes.
        self._counts[np.unique(_places(_shingles(text)))] += 1
        self._texts += 1

    def rare(self, shingles: Hashes) -> Hashes:
        """Return those that do not occur nearly everywhere."""
        most = max(_FEWEST_COMMON, _COMMON_SHARE * self._texts)
        return shingles[self._counts[_places(shingles)] <= most]


class DuplicateSearch:
    """Finds near-duplicates among texts that are added one by one; about 1 kB a text is held, not the texts.

    The share of equal entries of two MinHash signatures estimates the Jaccard similarity of the texts' sets of shingles
    (Broder, On the resemblance and containment of documents, 1997); texts that agree in all entries of a band are
    compared (Indyk & Motwani, Approximate nearest neighbors, STOC 1998). Texts that are the same but for case and
    punctuation are found whatever they hold.

    Args:
        counts: of all texts, counted before.
    """

    def __init__(self, counts: ShingleCounts) -> None:
        chance = np.random.default_rng(_SEED)
        # Multiply-add hashing modulo 2^64; odd factors keep all bits in play.
        self._factors = chance.integers(0, 1 << 63, _PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = chance.integers(0, 1 << 63, _PERMUTATIONS, dtype=np.uint64)
        self._counts = counts
        self._signatures: list[NDArray[np.uint32] | None] = []
        self._whole = array("Q")

    def add(self, text: str) -> None:
        """Take the next text."""
        words = _words(text)
        self._whole.append(_hash(" ".join(words)) if words else len(self._whole))
        shingles = self._counts.rare(_shingles(text))
        self._signatures.append(self._signature(shingles) if len(shingles) else None)

    def groups(self, similarity: float) -> DuplicateGroups:
        """Group the texts that were added, by number in the order of adding."""
        parents = list(range(len(self._whole)))
        nearest = [0.0] * len(parents)

        def root(number: int) -> int:
            while parents[number] != number:
                parents[number] = parents[parents[number]]
                number = parents[number]
            return number

        for one, other in self._candidates():
            alike = self._similarity(one, other)
            if alike >= similarity:
                nearest[one], nearest[other] = max(nearest[one], alike), max(nearest[other], alike)
                parents[root(other)] = root(one)
        numbers: dict[int, int] = {}
        groups = [
            numbers.setdefault(root(each), len(numbers) + 1) if nearest[each] else 0 for each in range(len(parents))
        ]
        return DuplicateGroups(groups, nearest)

    def _signature(self, shingles: Hashes) -> NDArray[np.uint32]:
        hashed = shingles[None, :] * self._factors[:, None] + self._offsets[:, None]
        return np.asarray(hashed.min(axis=1) >> np.uint64(32), dtype=np.uint32)

    def _similarity(self, one: int, other: int) -> float:
        if self._whole[one] == self._whole[other]:
            return 1.0
        first, second = self._signatures[one], self._signatures[other]
        return 0.0 if first is None or second is None else float((first == second).mean())

    def _candidates(self) -> Iterator[tuple[int, int]]:
        same = defaultdict(list)
        for number, whole in enumerate(self._whole):
            same[whole].append(number)
        for numbers in same.values():
            yield from ((numbers[0], other) for other in numbers[1:])
        rows = _PERMUTATIONS // _BANDS
        for band in range(_BANDS):
            buckets = defaultdict(list)
            for number, signature in enumerate(self._signatures):
                if signature is not None:
                    buckets[signature[band * rows : (band + 1) * rows].tobytes()].append(number)
            for numbers in buckets.values():
                # A crowd is compared with its first ones: being alike is handed on within a group.
                for position, one in enumerate(numbers[:_MOST_IN_A_BUCKET]):
                    yield from ((one, other) for other in numbers[position + 1 :])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _shingles(text: str) -> Hashes:
    words = _words(text)
    runs = {
        " ".join(words[start : start + _WORDS_A_SHINGLE]) for start in range(max(1, len(words) - _WORDS_A_SHINGLE + 1))
    }
    return np.fromiter((_hash(each) for each in runs), np.uint64, len(runs)) if words else np.empty(0, np.uint64)


def _places(shingles: Hashes) -> Hashes:
    return shingles >> np.uint64(64 - _TABLE_BITS)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
