"""What is worked on at this replica, a run or a ranking, and how those who watch it learn that it has changed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from services.evaluation.runs.record import RunState
from services.evaluation.runs.retry import wait_out

_PAUSE_SECONDS: Final = 0.1
"""Watchers are woken at most ten times a second, however fast items come."""


class Work(Protocol):
    """A run, or a ranking."""

    @property
    def state(self) -> RunState:
        """Where it stands."""
        ...


WorkT = TypeVar("WorkT", bound=Work)


class LiveWork(Generic[WorkT]):
    """By id, each as it stands in this process, which is newer than in the list that replicas share.

    Args:
        poll_seconds: how often to look at what is worked on elsewhere.
        patience_seconds: how long a watcher waits for a list that is away.
    """

    def __init__(self, *, poll_seconds: float, patience_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._patience_seconds = patience_seconds
        self._works: dict[str, WorkT] = {}
        self._changed = asyncio.Condition()
        self._unsent_change = asyncio.Event()

    def __getitem__(self, work_id: str) -> WorkT:
        """One that is worked on here."""
        return self._works[work_id]

    def get(self, work_id: str) -> WorkT | None:
        """One that is worked on here, if it is."""
        return self._works.get(work_id)

    def here(self) -> tuple[WorkT, ...]:
        """All that are worked on here, in the order in which they were taken up."""
        return tuple(self._works.values())

    def newest(self, work_id: str, stored: WorkT) -> WorkT:
        """One as it stands: here, if it is worked on here, else as the list has it."""
        return self._works.get(work_id, stored)

    def note(self, work_id: str, work: WorkT) -> None:
        """Take in how one stands."""
        self._works[work_id] = work
        self.tell()

    def pop(self, work_id: str) -> WorkT | None:
        """Work on one no more; return how it stood, if it was worked on. Its watchers learn of it with ``tell``."""
        return self._works.pop(work_id, None)

    def tell(self) -> None:
        """Let the watchers look again."""
        self._unsent_change.set()

    async def announce(self) -> None:
        """Wake the watchers whenever something has changed, until cancelled."""
        while True:
            await self._unsent_change.wait()
            self._unsent_change.clear()
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def watch(self, work_id: str, read: Callable[[str], Awaitable[WorkT]]) -> AsyncGenerator[WorkT, None]:
        """One as ``read`` gives it now, and again whenever it has changed, until it has ended."""
        work = await read(work_id)
        yield work
        while not work.state.is_final:
            seen = work
            await self._may_have_changed(work_id, seen)
            work = await wait_out(partial(read, work_id), patience_seconds=self._patience_seconds)
            if work != seen:
                yield work

    async def _may_have_changed(self, work_id: str, seen: WorkT) -> None:
        """Wait until what is worked on here has changed, or for a moment if it is worked on elsewhere."""
        is_here = work_id in self._works
        with contextlib.suppress(TimeoutError):
            async with self._changed, asyncio.timeout(None if is_here else self._poll_seconds):
                while self._works.get(work_id) == (seen if is_here else None):
                    await self._changed.wait()
