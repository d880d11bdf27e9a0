"""Notices that the process behind a model has died while requests wait for it.

Triton answers new requests to a dead stub with an error, but says nothing to those in flight, and the model stays
"ready". So while requests of a model are in flight, the client asks it something cheap from time to time; once the
answer is that the process is gone, the waiting calls are ended instead of sitting out their deadlines. A call that is
told so reports it here: a model that is loaded again at once would answer the next question as if nothing had happened,
and what waits for its former process would wait on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import contextmanager
from typing import Final, Protocol

DEATH_SECONDS: Final = 2.0
"""How long Triton may take to tell all who wait for a process that it is gone; it forgets some."""


class Call(Protocol):
    """A call in flight."""

    def cancel(self) -> bool:
        """End it; its reader sees a cancellation."""


class EngineWatch:
    """Watches the models that have requests in flight.

    Args:
        is_alive: asks a model's process; true also if there was no answer in time, because a busy process is no
            dead one.
        interval_seconds: pause between two questions.
    """

    def __init__(self, is_alive: Callable[[str], Awaitable[bool]], *, interval_seconds: float) -> None:
        self._is_alive = is_alive
        self._interval_seconds = interval_seconds
        self._calls: dict[str, set[Call]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._ended: set[Call] = set()
        self._bereft: set[Call] = set()
        self._deadlines: set[asyncio.TimerHandle] = set()

    @contextmanager
    def watching(self, model: str, call: Call) -> Iterator[None]:
        """Watch ``model`` while ``call`` is in flight."""
        calls = self._calls.setdefault(model, set())
        calls.add(call)
        if model not in self._watchers:
            self._watchers[model] = asyncio.create_task(self._watch(model), name=f"engine watch {model}")
        try:
            yield
        finally:
            calls.discard(call)
            self._ended.discard(call)
            self._bereft.discard(call)
            if not calls:
                self._calls.pop(model, None)
                self._stop_watching(model)

    def was_ended(self, call: Call) -> bool:
        """Return whether ``call`` was ended because its model's process is gone."""
        return call in self._ended

    def is_bereft(self, call: Call) -> bool:
        """Return whether the process that ``call`` waits for is known to be gone: nothing new should join it."""
        return call in self._bereft

    def report_death(self, model: str, witness: Call) -> None:
        """Learn from ``witness``, a call in flight, that the model's process is gone: soon end what waits for it."""
        # Its death is known already, and what came since may wait for the next process.
        if witness in self._bereft:
            return
        bereft = frozenset(self._calls.get(model, ())) - self._bereft
        self._bereft |= bereft

        def end() -> None:
            self._deadlines.discard(timer)
            self._end(bereft & self._bereft)

        timer = asyncio.get_running_loop().call_later(DEATH_SECONDS, end)
        self._deadlines.add(timer)

    def close(self) -> None:
        """Stop watching."""
        for timer in self._deadlines:
            timer.cancel()
        self._deadlines.clear()
        for model in list(self._watchers):
            self._stop_watching(model)

    def _stop_watching(self, model: str) -> None:
        watcher = self._watchers.pop(model, None)
        if watcher is not None:
            watcher.cancel()

    async def _watch(self, model: str) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            # Only what was in flight before the question: what comes later is answered by Triton itself.
            waiting = set(self._calls.get(model, ()))
            if await self._is_alive(model):
                continue
            self._end(waiting & self._calls.get(model, set()))

    def _end(self, calls: Set[Call]) -> None:
        for call in calls:
            self._ended.add(call)
            call.cancel()
