"""Looks answers up, has each computed once, keeps them, and says why one was not there."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import grpc
import structlog
from prometheus_client import Counter

from services.generation.cache.key import AnswerKey, differing_parts
from services.generation.errors import ModelNotReadyError
from services.generation.requests import CacheExplanation, CacheMode, CacheOutcome
from services.runtime.cache.entry import CorruptEntryError
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.single_flight import SingleFlight
from services.runtime.cache.store import CacheStore, NewEntry
from services.runtime.errors import FleetError

StoredT = TypeVar("StoredT")

_COMPARED_ENTRIES: Final = 32
# What ended these may be the first caller's own deadline or quota; the others wait for an attempt of their own.
_PERSONAL_CODES: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED})


@dataclass(frozen=True, slots=True)
class Codec(Generic[StoredT]):
    """How a kind of answer becomes an entry of a key, and comes back; ``read`` raises ``CorruptEntryError``."""

    write: Callable[[bytes, StoredT], bytes]
    read: Callable[[bytes, bytes], StoredT]


@dataclass(frozen=True, slots=True)
class Computed(Generic[StoredT]):
    """A fresh answer.

    Attributes:
        stored: what is kept of it.
        key: what it turned out to have; ``None`` if it must not be kept. It can differ from the one asked for: the
            model may have been replaced in the meantime.
        model_digest: of the model that gave it.
    """

    stored: StoredT
    key: AnswerKey | None
    model_digest: str


@dataclass(frozen=True, slots=True)
class Found(Generic[StoredT]):
    """An answer.

    Attributes:
        stored: the answer.
        outcome: where it came from.
        explanation: why it was not there, if that was asked.
        computed_by: digest of the model that just computed it; empty for what was kept.
    """

    stored: StoredT
    outcome: CacheOutcome
    explanation: CacheExplanation | None = None
    computed_by: str = ""


class AnswerCache:
    """The cache in front of the engines.

    Args:
        store: holds the entries.
        metrics: counts lookups and damaged entries.
    """

    def __init__(self, store: CacheStore, metrics: CacheMetrics) -> None:
        self._store = store
        self._metrics = metrics
        # Finding a counter by its label costs more than counting, so the found ones are kept.
        self._counters: dict[CacheOutcome, Counter] = {}
        self._flights: SingleFlight[Hashable, Any] = SingleFlight(_is_personal)
        self._log: Any = structlog.get_logger(__name__)

    async def answer(
        self,
        key: AnswerKey,
        mode: CacheMode,
        codec: Codec[StoredT],
        compute: Callable[[], Awaitable[Computed[StoredT]]],
        *,
        flight_group: Hashable = None,
        explained_index: int | None = None,
    ) -> Found[StoredT]:
        """Return the answer of a key.

        Args:
            key: what is asked.
            mode: USE or REFRESH; a BYPASS does not come here.
            codec: how such answers are written down.
            compute: makes the answer; what it raises is raised here and not kept.
            flight_group: requests share a computation only within the same group, e.g. of a priority.
            explained_index: index of the sample if its caller wants to know what the cache did.
        """

        async def found_or_computed() -> Found[StoredT]:
            outcome, explanation = CacheOutcome.REFRESHED, None
            if mode is CacheMode.USE:
                looked_up = await self._look_up(key.digest, codec)
                stored, outcome = looked_up
                if explained_index is not None:
                    explanation = await self._explain(key, outcome, explained_index)
                if stored is not None:
                    return Found(stored, outcome, explanation)
            computed = await compute()
            if computed.key is not None:
                value = codec.write(computed.key.digest, computed.stored)
                await self._store.put(NewEntry(computed.key.digest, value, computed.key.groups, computed.key.parts))
            return Found(computed.stored, outcome, explanation, computed.model_digest)

        # The look-up is part of the flight: whoever comes late finds either the flight or the entry that it left.
        flight: tuple[Found[StoredT], bool]
        flight = await self._flights.run((key.digest, mode, flight_group), found_or_computed)
        found, is_shared = flight
        outcome, explanation = found.outcome, found.explanation
        if is_shared and not outcome.is_cached:
            outcome, explanation = CacheOutcome.SHARED, None
        if explained_index is not None and explanation is None:
            explanation = CacheExplanation(outcome, explained_index, key.digest.hex())
        self._count(outcome)
        if explained_index is None:
            explanation = None
        if outcome is found.outcome and explanation is found.explanation:
            return found
        return replace(found, outcome=outcome, explanation=explanation)

    async def look_up(self, key: AnswerKey, codec: Codec[StoredT]) -> StoredT | None:
        """Return an answer that is there, without computing it."""
        looked_up = await self._look_up(key.digest, codec)
        self._count(looked_up[1])
        return looked_up[0]

    async def keep(self, key: AnswerKey, codec: Codec[StoredT], stored: StoredT) -> None:
        """Keep an answer that was computed elsewhere."""
        await self._store.put(NewEntry(key.digest, codec.write(key.digest, stored), key.groups, key.parts))

    async def _explain(self, key: AnswerKey, outcome: CacheOutcome, sample_index: int) -> CacheExplanation:
        """Say what a look-up gave, and for a miss which parts of the key differ from the nearest recent entry.

        At most 32 entries with the same prompt and 32 of the same model are compared. An entry that was evicted can
        still be the nearest: then no part differs.
        """
        found = CacheExplanation(outcome, sample_index, key.digest.hex())
        if outcome is not CacheOutcome.MISS:
            return found
        nearest: tuple[tuple[str, ...], float] | None = None
        for group in key.groups:
            for entry in await self._store.recent(group, limit=_COMPARED_ENTRIES):
                parts = differing_parts(key.parts, entry.parts)
                if nearest is None or len(parts) < len(nearest[0]):
                    nearest = (parts, entry.stored_seconds)
        if nearest is None:
            return found
        when = datetime.fromtimestamp(nearest[1], UTC)
        return CacheExplanation(outcome, sample_index, found.key, nearest[0], when)

    async def _look_up(self, digest: bytes, codec: Codec[StoredT]) -> tuple[StoredT | None, CacheOutcome]:
        entry = (await self._store.get_many([digest])).get(digest)
        if entry is None:
            return None, CacheOutcome.MISS
        try:
            return codec.read(digest, entry), CacheOutcome.HIT
        except CorruptEntryError as error:
            self._metrics.corrupt_entries.inc()
            self._log.warning("cache_entry_corrupt", key=digest.hex(), problem=str(error))
            await self._store.remove(digest)
            return None, CacheOutcome.CORRUPT

    def _count(self, outcome: CacheOutcome) -> None:
        counter = self._counters.get(outcome)
        if counter is None:
            counter = self._counters[outcome] = self._metrics.lookups.labels(outcome.value)
        counter.inc()


def _is_personal(error: BaseException) -> bool:
    if isinstance(error, ModelNotReadyError):
        return error.is_cut_short
    if isinstance(error, FleetError):
        return error.code in _PERSONAL_CODES
    return isinstance(error, TimeoutError)
