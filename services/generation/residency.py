"""Which models stay in the inference server's memory: the most recently used ones that fit a budget."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from services.generation.models import ModelRecord

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DEFAULT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Bounds on the memory of loaded models.

    Attributes:
        budget_bytes: what all of them may take together; ``None``: half of the inference device's memory.
        overhead_bytes: counted for each model beside its weights (tokenizer, prefix cache).
        patience_seconds: how long a model that needs room waits for an idle one to go; then the least recently used one
            takes no new requests until those in flight are answered and it has gone.
    """

    budget_bytes: int | None = None
    overhead_bytes: int = 0
    patience_seconds: float = 2.0


def memory_cost(record: ModelRecord, overhead_bytes: int) -> int:
    """Return the bytes that a loaded model takes: its weights in the number type of the computation, and overhead."""
    if record.parameter_count:
        return record.parameter_count * _DTYPE_BYTES[record.dtype] + overhead_bytes
    return record.weight_bytes + overhead_bytes


class ModelMemory:
    """Books the memory of loaded models, and makes room for those that are needed.

    A model with requests in flight is never evicted. One that is larger than the whole budget is let in alone.

    Args:
        limits: the budget.
        device_memory_bytes: asks for the memory of the inference device; needed without a budget of ours.
    """

    def __init__(self, limits: MemoryLimits, device_memory_bytes: Callable[[], Awaitable[int]]) -> None:
        self._limits = limits
        self._device_memory_bytes = device_memory_bytes
        self._budget = limits.budget_bytes
        self._booked: dict[str, int] = {}
        self._in_flight: dict[str, int] = {}
        self._last_use: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._door = asyncio.Lock()
        self._changed = asyncio.Event()
        self.evictions = 0

    @property
    def booked_bytes(self) -> int:
        """Memory of all models that are loaded or being loaded."""
        return sum(self._booked.values())

    def using(self, model_id: str) -> AbstractContextManager[None]:
        """Keep a model from being evicted inside a ``with`` block."""
        return _Use(self, model_id)

    def begin_use(self, model_id: str) -> None:
        """Keep a model from being evicted until ``end_use`` was called as often."""
        self._in_flight[model_id] = self._in_flight.get(model_id, 0) + 1

    def end_use(self, model_id: str) -> None:
        """See ``begin_use``."""
        self._in_flight[model_id] -= 1
        if not self._in_flight[model_id]:
            del self._in_flight[model_id]
        self.touch(model_id)
        self.notify()

    def touch(self, model_id: str) -> None:
        """Count a model as used now; one that is not booked is none that could leave."""
        if model_id in self._booked:
            self._last_use[model_id] = time.monotonic()

    def is_in_use(self, model_id: str) -> bool:
        """Return whether requests are in flight."""
        return model_id in self._in_flight

    def is_leaving(self, model_id: str) -> bool:
        """Return whether a model is being evicted, or is to be once its requests in flight are answered."""
        return model_id in self._leaving

    async def until_left(self, model_id: str) -> None:
        """Return when ``is_leaving`` is false."""
        await self._until(lambda: model_id not in self._leaving)

    def book(self, record: ModelRecord) -> None:
        """Count a model that is loaded already; a foreign one takes nothing here."""
        if record.foreign_target:
            return
        self._booked[record.model_id] = memory_cost(record, self._limits.overhead_bytes)

    def release(self, model_id: str) -> None:
        """Count a model no longer: it is not loaded, or could not be."""
        self._booked.pop(model_id, None)
        self._leaving.discard(model_id)
        self.notify()

    def forget(self, model_id: str) -> None:
        """Drop all that is known of a deleted model."""
        self.release(model_id)
        self._last_use.pop(model_id, None)

    async def admit(
        self,
        record: ModelRecord,
        ready: Callable[[], Sequence[ModelRecord]],
        evict: Callable[[ModelRecord], Awaitable[bool]],
    ) -> None:
        """Book a model's memory, after evicting the least recently used ones until it fits.

        Args:
            record: the model that is to be loaded.
            ready: returns the models that might go.
            evict: unloads one, whose requests are answered and which takes no new ones until then; returns whether it
                has left. If not, it is none of those that ``ready`` returns any more. One whose unloading fails stays
                booked.
        """
        if record.foreign_target:
            return
        # Given back before the door: whoever is inside might wait for just this memory, which nobody can evict.
        if self._booked.pop(record.model_id, None) is not None:
            self.notify()
        async with self._door:
            needed = memory_cost(record, self._limits.overhead_bytes)
            while self._booked and self.booked_bytes + needed > await self._budget_bytes():
                victim = await self._idle_one(
                    lambda: [each for each in ready() if each.model_id in self._booked and each != record]
                )
                if victim is None:
                    continue  # all are being loaded right now, and cannot go before they are
                self._leaving.add(victim.model_id)
                try:
                    has_left = await evict(victim)
                finally:
                    self._leaving.discard(victim.model_id)
                    self.notify()
                if has_left:
                    self.release(victim.model_id)
                    self.evictions += 1
            self._booked[record.model_id] = needed

    async def _budget_bytes(self) -> int:
        if self._budget is None:
            self._budget = int(_DEFAULT_SHARE * await self._device_memory_bytes())
        return self._budget

    async def _idle_one(self, candidates: Callable[[], Sequence[ModelRecord]]) -> ModelRecord | None:
        """Return the least recently used model without requests in flight, waiting for one; None: ask again."""

        def idle() -> ModelRecord | None:
            return next((each for each in self._oldest_first(candidates()) if not self.is_in_use(each.model_id)), None)

        try:
            async with asyncio.timeout(self._limits.patience_seconds):
                await self._until(lambda: idle() is not None)
            return idle()
        except TimeoutError:
            oldest = next(iter(self._oldest_first(candidates())), None)
        if oldest is not None:
            self._leaving.add(oldest.model_id)
            try:
                await self._until(lambda: not (self.is_in_use(oldest.model_id) and self.is_leaving(oldest.model_id)))
            except asyncio.CancelledError:
                self._leaving.discard(oldest.model_id)
                self.notify()
                raise
            if not self.is_leaving(oldest.model_id):
                return None  # it was deleted meanwhile
        return oldest

    def _oldest_first(self, records: Sequence[ModelRecord]) -> list[ModelRecord]:
        return sorted(records, key=lambda each: self._last_use.get(each.model_id, 0.0))

    def notify(self) -> None:
        """Wake whoever waits for a change in which models are loaded or in use."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self._changed.wait()


class _Use(AbstractContextManager[None]):
    """A model in use; a class, because each request enters one and a generator costs several times as much."""

    __slots__ = ("_memory", "_model_id")

    def __init__(self, memory: ModelMemory, model_id: str) -> None:
        self._memory = memory
        self._model_id = model_id

    def __enter__(self) -> None:
        self._memory.begin_use(self._model_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._memory.end_use(self._model_id)
