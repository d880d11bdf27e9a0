"""Sandboxes that are started before there is a program for them; each takes one program and ends with it."""

import asyncio
import os
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.runtime.places import Places
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.sandbox_process import SandboxProcess

_ATTEMPTS = 3


class WarmPool:
    """Keeps a number of sandboxes ready, and lets a number of programs run at once."""

    def __init__(self, start: Callable[[], Awaitable[SandboxProcess]], ready: int, running: int) -> None:
        self._start = start
        self._size = ready
        self._places = Places(running)
        self._ready: deque[asyncio.Future[SandboxProcess]] = deque()
        self._ending: set[asyncio.Future[None]] = set()
        self._is_closed = False
        # A core each, in no order: other services on this machine may hand out the same ones.
        cores = list(os.sched_getaffinity(0))
        self._cores = random.sample(cores, len(cores)) if running <= len(cores) else []

    @asynccontextmanager
    async def sandbox(self) -> AsyncIterator[SandboxProcess]:
        """Give a fresh sandbox once there is a place for the caller's program; it is ended afterwards.

        Raises:
            SandboxUnavailableError: none can be started.
        """
        async with self._places.place():
            process = await self._take()
            core = self._cores.pop() if self._cores else None
            if core is not None:
                process.use_core(core)
            try:
                yield process
            finally:
                if core is not None:
                    self._cores.append(core)
                process.kill()
                ending = asyncio.ensure_future(process.end())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End every sandbox that waits, and wait until it is gone; none is started any more."""
        self._is_closed = True
        starting = list(self._ready)
        self._ready.clear()
        for each in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(each, SandboxProcess):
                await each.end()
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    async def _take(self) -> SandboxProcess:
        # All that were ready may have been killed meanwhile, for want of memory.
        for _ in range(self._size + _ATTEMPTS):
            process = await self._next()
            if process.is_running:
                return process
            await process.end()
        raise SandboxUnavailableError("sandboxes end before a program comes; is there memory left on this machine?")

    async def _next(self) -> SandboxProcess:
        if self._is_closed:
            raise SandboxUnavailableError("the sandboxes have been closed")
        # One that could not be started while nobody wanted it says nothing about now.
        self._ready = deque(each for each in self._ready if not _has_failed(each))
        while len(self._ready) <= self._size:
            self._ready.append(asyncio.ensure_future(self._start()))
        taken = self._ready.popleft()
        try:
            return await asyncio.shield(taken)
        except asyncio.CancelledError:
            self._ready.append(taken)
            raise


def _has_failed(starting: asyncio.Future[SandboxProcess]) -> bool:
    return starting.done() and (starting.cancelled() or starting.exception() is not None)
