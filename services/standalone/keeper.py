"""Keeps one process of the fleet running: starts it, reports its death, starts it again, gives up in the end."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from services.standalone.errors import PartFailedError
from services.standalone.log_tail import log_tail
from services.standalone.plan import PartPlan
from services.standalone.processes import PartProcess


class Reporter(Protocol):
    """Tells people what happens to the fleet's processes."""

    def started(self, part: str, seconds: float) -> None:
        """A process is healthy, ``seconds`` after its first start."""

    def died(self, part: str, how: str, restart_in_seconds: float) -> None:
        """A process has ended unasked and will be started again."""

    def recovered(self, part: str, seconds: float) -> None:
        """A process is healthy again, ``seconds`` after it died."""

    def killed(self, part: str) -> None:
        """A process did not stop in time and was killed."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often and how soon a dead process is started again.

    Attributes:
        first_delay_seconds: before the first restart; doubled for each further quick death.
        longest_delay_seconds: bound of that.
        quick_seconds: a process that dies sooner than this after it was healthy died quickly.
        quick_deaths: so many quick deaths in a row, and it is given up.
    """

    first_delay_seconds: float = 0.5
    longest_delay_seconds: float = 10.0
    quick_seconds: float = 30.0
    quick_deaths: int = 5

    def delay_seconds(self, quick_deaths: int) -> float:
        """Return the pause after so many quick deaths in a row."""
        return min(self.longest_delay_seconds, self.first_delay_seconds * 2.0 ** max(0, quick_deaths - 1))


class PartKeeper:
    """Keeps one process running.

    Args:
        plan: how it is started.
        policy: how often it is started again.
        report: is told what happens.
        on_change: called whenever a process has become healthy.

    Attributes:
        plan: how it is started.
        process: the current one; ``None`` before the first.
        healthy: set once it was healthy for the first time.
    """

    def __init__(self, plan: PartPlan, policy: RestartPolicy, report: Reporter, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.process: PartProcess | None = None
        self.healthy = asyncio.Event()
        self._policy = policy
        self._report = report
        self._on_change = on_change

    async def keep(self) -> NoReturn:
        """Start the process and keep it running until cancelled; cancelling leaves the process alone.

        Raises:
            PartFailedError: it did not start at all, or died too often.
        """
        began = time.monotonic()
        process = await self._start()
        problem = await self._trouble_before_health(process)
        if problem:
            raise self._failure(problem)
        self.healthy.set()
        self._report.started(self.plan.name, time.monotonic() - began)
        quick_deaths = 0
        while True:
            healthy_since = time.monotonic()
            how = await process.wait()
            died_at = time.monotonic()
            quick_deaths = quick_deaths + 1 if died_at - healthy_since < self._policy.quick_seconds else 1
            process = await self._restart(how, quick_deaths)
            self._report.recovered(self.plan.name, time.monotonic() - died_at)
            self._on_change()

    async def _restart(self, how: str, quick_deaths: int) -> PartProcess:
        """Start the process again, more than once if need be, until it is healthy."""
        problem = how
        while True:
            if quick_deaths >= self._policy.quick_deaths:
                raise self._failure(f"{problem}, {quick_deaths} times in a row; it is given up")
            delay = self._policy.delay_seconds(quick_deaths)
            self._report.died(self.plan.name, problem, delay)
            await asyncio.sleep(delay)
            process = await self._start()
            trouble = await self._trouble_before_health(process)
            if trouble is None:
                return process
            problem, quick_deaths = trouble, quick_deaths + 1

    async def _start(self) -> PartProcess:
        starting = asyncio.ensure_future(PartProcess.start(self.plan))
        try:
            self.process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A process that nobody knows of would outlive the fleet.
            self.process = await starting
            raise
        return self.process

    async def _trouble_before_health(self, process: PartProcess) -> str | None:
        """Wait until the process is healthy; return what went wrong, with no process left behind, or ``None``."""
        healthy = asyncio.ensure_future(process.wait_until_healthy())
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait(
                (healthy, ended), timeout=self.plan.start_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                return ended.result()
            if healthy.done():
                healthy.result()
                return None
        finally:
            healthy.cancel()
            ended.cancel()
        at_once = asyncio.Event()
        at_once.set()
        await process.stop(at_once)
        return f"was not healthy within {self.plan.start_timeout_seconds:.0f} s"

    def _failure(self, problem: str) -> PartFailedError:
        tail = log_tail(self.plan.log_path)
        # A service that knows what it lacks says so itself, which is better than whatever else its log ends with.
        start = tail.rfind(f"{self.plan.name} cannot start: ")
        if start >= 0:
            return PartFailedError(self.plan.name, tail[start:], self.plan.log_path, "")
        return PartFailedError(self.plan.name, f"{self.plan.name} {problem}", self.plan.log_path, tail)
