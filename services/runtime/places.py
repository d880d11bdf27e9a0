"""Places at something that only few can use at once, handed out fairly by caller."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.runtime.caller_turns import CallerTurns
from services.runtime.callers import current_caller


@dataclass(eq=False, slots=True)
class _Waiting:
    caller: str
    came: asyncio.Future[None]
    cost: int = 1
    """In microseconds; what a place is really held for is charged when it is given back."""


class Places:
    """A number of places; while they are taken, callers get them in turn, by the time for which each held them.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._turns: CallerTurns[_Waiting] = CallerTurns()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._turns)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for the caller of the call being handled; waits as long as it takes.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
        """
        give_back = await self.take()
        try:
            yield
        finally:
            give_back()

    async def take(self) -> Callable[[], None]:
        """Take a place as ``place`` does, and return what gives it back: for work that outlives whoever waits for it.

        Raises:
            InvalidArgumentError: CALLER_INVALID.
        """
        caller = current_caller()
        await self._enter(caller)
        began = time.monotonic()
        return lambda: self._leave(caller, time.monotonic() - began)

    async def _enter(self, caller: str) -> None:
        if self._free and not len(self._turns):
            self._turns.pass_by(caller, 1)
            self._free -= 1
            return
        waiting = _Waiting(caller, asyncio.get_running_loop().create_future())
        self._turns.push(waiting)
        try:
            await waiting.came
        except asyncio.CancelledError:
            if waiting in self._turns:
                self._turns.remove(waiting)
            elif not waiting.came.cancelled():
                # The place came in the same moment: hand it on.
                self._leave(caller, 0.0)
            raise

    def _leave(self, caller: str, held_seconds: float) -> None:
        self._turns.charge(caller, int(held_seconds * 1e6))
        self._free += 1
        while self._free and len(self._turns):
            waiting = self._turns.pop()
            if not waiting.came.done():
                self._free -= 1
                waiting.came.set_result(None)
