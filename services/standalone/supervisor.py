"""Runs a fleet: starts its processes, waits until all are healthy, keeps them running, stops them in order."""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

from services.runtime.stopping import StopRequests
from services.standalone.keeper import PartKeeper, Reporter, RestartPolicy
from services.standalone.plan import STOP_ORDER, FleetPlan
from services.standalone.state import StateFile


class Supervisor:
    """Runs the processes of ``plan``.

    Args:
        plan: the processes.
        state_file: is there while all of them run.
        report: is told what happens.
        policy: how often a dead process is started again.
    """

    def __init__(
        self, plan: FleetPlan, state_file: StateFile, report: Reporter, policy: RestartPolicy | None = None
    ) -> None:
        self._state_file = state_file
        self._report = report
        self._is_up = False
        self._keepers = {
            part.name: PartKeeper(part, policy or RestartPolicy(), report, self._write_state) for part in plan.parts
        }

    async def run(self, stop: StopRequests, on_healthy: Callable[[], None]) -> None:
        """Run the fleet until it is asked to stop; when this returns or raises, no process is left.

        Args:
            stop: the first request drains, a second one kills what is still there.
            on_healthy: called once, when all processes are healthy.

        Raises:
            PartFailedError: a process could not be started, or died too often.
        """
        keeping = [asyncio.create_task(each.keep(), name=name) for name, each in self._keepers.items()]
        stopping = asyncio.create_task(stop.drain.wait())
        healthy = asyncio.create_task(self._all_healthy())
        try:
            await asyncio.wait((stopping, healthy, *keeping), return_when=asyncio.FIRST_COMPLETED)
            if healthy.done():
                self._is_up = True
                on_healthy()
                # Last, because whoever waits for the file may read what was printed.
                self._write_state()
                await asyncio.wait((stopping, *keeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_up = False
            self._state_file.remove()
            failure = await _end_tasks(keeping, stopping, healthy)
            await self._stop_all(stop.at_once)
        if failure:
            raise failure

    async def _all_healthy(self) -> None:
        for keeper in self._keepers.values():
            await keeper.healthy.wait()

    def _write_state(self) -> None:
        if self._is_up:
            self._state_file.write({name: each.process.pid for name, each in self._keepers.items() if each.process})

    async def _stop_all(self, at_once: asyncio.Event) -> None:
        for stage in STOP_ORDER:
            await asyncio.gather(*(self._stop(name, at_once) for name in stage if name in self._keepers))

    async def _stop(self, name: str, at_once: asyncio.Event) -> None:
        process = self._keepers[name].process
        if process is not None and not await process.stop(at_once):
            self._report.killed(name)


async def _end_tasks(keeping: list[asyncio.Task[NoReturn]], *others: asyncio.Task[Any]) -> Exception | None:
    """Cancel all tasks, wait for their end, and return what made a keeper give up."""
    for task in (*keeping, *others):
        task.cancel()
    outcomes = await asyncio.gather(*keeping, *others, return_exceptions=True)
    return next((each for each in outcomes if isinstance(each, Exception)), None)
