"""Replicas that work on one run, as the tests of its sharing make them."""

import asyncio
import copy
import dataclasses
from typing import Any
from unittest.mock import AsyncMock, patch

from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.record import Run, RunRequest, RunState
from services.evaluation.runs.store import RunStore
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.suite_books import Book

ITEMS = 100
REQUEST = RunRequest(suite="demo", model="models/tiny", concurrency=6)
STEADY = LeaseTimes(lease_seconds=60.0, renewal_seconds=0.1, poll_seconds=0.1)
"""Nobody loses anything, however slow the machine is."""
SHORT = LeaseTimes(lease_seconds=1.5, renewal_seconds=0.1, poll_seconds=0.1)
"""For tests in which somebody is to be taken over."""


class Replica:
    """One of several managers on the same list of runs and the same ledger, with a generator of its own."""

    def __init__(self, store: RunStore, book: Book, fleet: Any, times: LeaseTimes = STEADY) -> None:
        self.generator = copy.copy(fleet.generator)
        self.generator.asked, self.generator.waiting = [], []
        self.generator.gate = asyncio.Event()
        self.runs = RunManager(
            store, book, dataclasses.replace(fleet.peers, generator=self.generator), parallel_runs=2,
            default_concurrency=4, patience_seconds=LONGEST_WAIT_SECONDS, lease_times=times,
        )  # fmt: skip

    @property
    def is_asking(self) -> bool:
        return bool(self.generator.waiting)

    def let_go(self) -> None:
        self.generator.gate.set()

    async def crash(self) -> None:
        """End everything at once and tell nobody."""
        tasks = [*self.runs._own_tasks, *self.runs._jobs.values()]
        with patch.object(self.runs._shards, "give_back", AsyncMock()):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end_of(self, run_id: str) -> Run:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            return [run async for run in self.runs.watch(run_id)][-1]


async def started(
    store: RunStore, book: Book, fleet: Any, count: int, times: LeaseTimes = STEADY
) -> tuple[Run, list[Replica]]:
    """Start a run and wait until its owner, the first of the replicas, and all that help have items in flight."""
    replicas = [Replica(store, book, fleet, times) for _ in range(count)]
    owner, *helpers = replicas
    await owner.runs.start()
    run = await owner.runs.create(REQUEST)
    await until(lambda: owner.is_asking)
    for helper in helpers:
        await helper.runs.start()
    await until(lambda: all(each.is_asking for each in helpers))
    return run, replicas


def assert_complete(fleet: Any, ended: Run) -> None:
    assert ended.state is RunState.SUCCEEDED, ended.failure
    assert sorted(row.draw_index for row in fleet.ledger.rows.values()) == list(range(ITEMS))
    (progress,) = ended.progress
    assert (progress.item_count, progress.scored_count, progress.failed_count) == (ITEMS, ITEMS, 0)
