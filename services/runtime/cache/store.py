"""The seam of the cache: what a store of entries does, whatever holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

KEY_BYTES: Final = 32
"""Keys are SHA-256 digests."""


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is stored under one key.

    Attributes:
        key: ``KEY_BYTES`` bytes.
        value: as ``entry.encode_entry`` made it.
        groups: short digests by which recent entries are found again, e.g. of the prompt and of the model.
        parts: digests of the parts of the key, in an order that its owner knows; opaque here.
    """

    key: bytes
    value: bytes
    groups: tuple[bytes, ...] = ()
    parts: bytes = b""


@dataclass(frozen=True, slots=True)
class RecentEntry:
    """What a store remembers of how an entry's key was made; ``stored_seconds`` is Unix time."""

    parts: bytes
    stored_seconds: float


class CacheStore(Protocol):
    """Keeps entries within a bound and forgets the least recently used.

    A cache must never fail its callers: no method but ``open`` raises. What cannot be read is absent, what cannot be
    written is dropped, and the store counts both.
    """

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values that are there, by key; a value may be damaged, its checksum tells."""

    async def put(self, entry: NewEntry) -> None:
        """Take an entry; it is readable from here at once, and written down soon after."""

    async def remove(self, key: bytes) -> None:
        """Forget an entry."""

    async def recent(self, group: bytes, *, limit: int) -> Sequence[RecentEntry]:
        """Return how the latest entries of a group were keyed, newest first."""

    async def flush(self) -> None:
        """Return when everything that was put before is written down, or given up."""

    async def close(self) -> None:
        """Write down what was put, and let go of the file or the connection."""
