"""A manager of runs as its tests make and watch it."""

import asyncio
from typing import Any

from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.record import RunRequest, RunState
from services.evaluation.runs.store import RunStore
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.suite_books import Book

REQUEST = RunRequest(suite="demo", model="models/tiny")
# Leases end soon and are looked at often, so that no test waits for the clock.
TIMES = LeaseTimes(lease_seconds=1.0, renewal_seconds=0.1, poll_seconds=0.05)


def manager(store: RunStore, book: Book, fleet: Any, parallel_runs: int = 2) -> RunManager:
    return RunManager(
        store,
        book,
        fleet.peers,
        parallel_runs=parallel_runs,
        default_concurrency=4,
        patience_seconds=5.0,
        lease_times=TIMES,
    )


async def end_of(runs: RunManager, run_id: str) -> Any:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [run async for run in runs.watch(run_id)][-1]


async def begun(runs: RunManager, run_id: str) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for seen in runs.watch(run_id):
            if seen.state is RunState.RUNNING:
                return


async def job_of(runs: RunManager, run_id: str) -> asyncio.Task[None]:
    await until(lambda: run_id in runs._jobs)
    return runs._jobs[run_id]
