"""Which checkpoint's weights an engine holds: requests for the same ones share them, others wait for their turn."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

_TURN_SECONDS: Final = 2.0
"""How long requests for the resident weights may go first while others wait."""


@dataclass(slots=True)
class _Waiting:
    weights: Hashable
    since: float
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class WeightTurns:
    """Lets in requests for one set of weights at a time. Used on one event loop.

    Whoever waits for other weights is let in when nothing is in flight any more; after ``turn_seconds`` nobody
    overtakes it. So two checkpoints that are evaluated at once take turns instead of reading weights for each request.

    Args:
        switch: puts other weights in place; nothing is in flight meanwhile.
        turn_seconds: see above.
    """

    def __init__(self, switch: Callable[[Hashable], Awaitable[None]], *, turn_seconds: float = _TURN_SECONDS) -> None:
        self._switch = switch
        self._turn_seconds = turn_seconds
        self._resident: Hashable | None = None
        self._in_flight = 0
        self._waiting: deque[_Waiting] = deque()
        self._switching = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Requests that wait for other weights than those that are in place."""
        return len(self._waiting)

    def assume(self, weights: Hashable) -> None:
        """Say what is in place already."""
        self._resident = weights

    @asynccontextmanager
    async def using(self, weights: Hashable) -> AsyncIterator[None]:
        """Hold these weights in place.

        Raises:
            InferenceFailure: they cannot be put in place.
        """
        await self._enter(weights)
        try:
            await self._ensure(weights)
            yield
        finally:
            self._in_flight -= 1
            self._admit()

    async def _enter(self, weights: Hashable) -> None:
        self._admit()
        overdue = self._waiting and time.monotonic() - self._waiting[0].since > self._turn_seconds
        if self._in_flight == 0 and not self._waiting:
            self._in_flight, self._target = 1, weights
            return
        if self._in_flight and self._target == weights and not overdue:
            self._in_flight += 1
            return
        place = _Waiting(weights, time.monotonic())
        self._waiting.append(place)
        try:
            await place.admitted.wait()
        except asyncio.CancelledError:
            if place.admitted.is_set():
                self._in_flight -= 1
            else:
                self._waiting.remove(place)
            self._admit()
            raise

    def _admit(self) -> None:
        """When nothing is in flight, let in whoever waits longest, and all who want the same."""
        if self._in_flight or not self._waiting:
            return
        self._target = self._waiting[0].weights
        staying: deque[_Waiting] = deque()
        for place in self._waiting:
            if place.weights == self._target:
                self._in_flight += 1
                place.admitted.set()
            else:
                staying.append(place)
        self._waiting = staying

    async def _ensure(self, weights: Hashable) -> None:
        # All who are let in together want the same; the first of them switches, the others wait for it.
        async with self._switching:
            if self._resident != weights:
                # While it is unknown what is in place, nobody may believe that it is the old one.
                self._resident = None
                await self._switch(weights)
                self._resident = weights
