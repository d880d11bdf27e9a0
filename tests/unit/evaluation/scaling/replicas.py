"""Evaluation services in the test's process: each with a manager of runs and a server of the scaler."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.manager import RunManager
from services.evaluation.scaling.open_work import OpenWork, Places
from services.evaluation.scaling.refusals import Refusals
from services.evaluation.scaling.service import hosted_scaler
from services.runtime.testing import InProcessServer, run_in_process
from tests.unit.evaluation.runs.managing import manager
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book

POLL_SECONDS = 0.01
LONG_SECONDS = 3600.0


@dataclass(frozen=True)
class Replica:
    """One evaluation service."""

    runs: RunManager
    server: InProcessServer
    refusals: Refusals

    async def die(self) -> None:
        """Be gone at once, as by SIGKILL: what it holds is not given back, and its streams break."""
        for task in (*self.runs._own_tasks, *self.runs._jobs.values()):
            task.cancel()
        await self.server.server.close()


class Replicas:
    """Starts evaluation services on one list of runs; those that are left are stopped at the end."""

    def __init__(self, store: SharedStore, book: Book, fleet: Any) -> None:
        self.store = store
        self._book = book
        self._fleet = fleet
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, *, works: bool = True, connection_seconds: float = LONG_SECONDS) -> Replica:
        """Start one; it takes runs if ``works``."""
        runs, refusals = manager(self.store, self._book, self._fleet), Refusals()
        work = OpenWork(self.store, RankingStore(self.store.engine), self._book, Places(), max_age_seconds=0.0)
        service = hosted_scaler(work, refusals, connection_seconds=connection_seconds, poll_seconds=POLL_SECONDS)
        server = await self._stack.enter_async_context(run_in_process(service))
        if works:
            await runs.start()
            self._stack.push_async_callback(runs.stop)
        return Replica(runs, server, refusals)
