"""Reads from the list that all replicas share what is open, whoever works on it."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from services.evaluation.rankings.record import Ranking
from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.record import Run, RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import SuiteBook
from services.evaluation.scaling.demand import Demand, demand_of_ranking, demand_of_run, total
from services.runtime.errors import FleetError

_MOST_REMEMBERED: Final = 256
_UNREADABLE_SECONDS: Final = 60.0
"""How long a suite that could not be read is not tried again."""

WorkT = TypeVar("WorkT", Run, Ranking)

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """How much one replica of the evaluation service works on at once; the rest waits, and has nothing in flight.

    Attributes:
        runs: runs.
        rankings: rankings.
    """

    runs: int = 4
    rankings: int = 2


class OpenWork:
    """The demand of everything that is open, at most ``max_age_seconds`` old however many ask at once.

    Of what waits for a place only as much wants models as one replica would take next: a replica that has it says so
    within seconds, and a hundred waiting runs would otherwise wake GPUs that none of their items reach.

    Args:
        runs: the list of runs.
        rankings: the list of rankings.
        suites: tell which tasks a guard judges.
        places: of one replica.
        max_age_seconds: the database is not asked more often.
    """

    def __init__(
        self,
        runs: RunStore,
        rankings: RankingStore,
        suites: SuiteBook,
        places: Places,
        *,
        max_age_seconds: float = 1.0,
    ) -> None:
        self._places = places
        self._runs = runs
        self._rankings = rankings
        self._suites = suites
        self._max_age_seconds = max_age_seconds
        self._reading = asyncio.Lock()
        self._demand = Demand()
        self._read_at: float | None = None
        self._judged: dict[tuple[str, tuple[str, ...], str], frozenset[str]] = {}
        self._unreadable_until: dict[tuple[str, tuple[str, ...], str], float] = {}

    async def demand(self) -> Demand:
        """What is wanted now.

        Raises:
            RunsUnavailableError: the database is away. Nobody may take that for an idle fleet.
        """
        clock = asyncio.get_running_loop().time
        async with self._reading:
            if self._read_at is None or clock() - self._read_at >= self._max_age_seconds:
                self._demand = await self._read()
                self._read_at = clock()
            return self._demand

    async def _read(self) -> Demand:
        runs, rankings = await self._runs.unfinished(), await self._rankings.unfinished()
        demands = [await self._of_run(each) for each in _placed(runs, self._places.runs)]
        demands += [await self._of_ranking(each) for each in _placed(rankings, self._places.rankings)]
        # Runs and rankings have places of their own: there must be replicas enough for either.
        as_runs = math.ceil(len(rankings) * self._places.runs / self._places.rankings)
        return replace(total(demands), run_count=max(len(runs), as_runs))

    async def _of_run(self, run: Run) -> Demand:
        return demand_of_run(run, await self._judged_tasks(run.suite, run.tasks, run.suite_digest))

    async def _of_ranking(self, ranking: Ranking) -> Demand:
        judged = await self._judged_tasks(ranking.suite, (ranking.task,), ranking.suite_digest)
        return demand_of_ranking(ranking, is_judged=judged is None or ranking.task in judged)

    async def _judged_tasks(self, suite: str, tasks: Sequence[str], digest: str) -> frozenset[str] | None:
        """The tasks that a guard judges; None if the suite cannot be read, so that no run waits for a guard asleep."""
        key = (suite, tuple(tasks), digest)
        if key not in self._judged:
            now = asyncio.get_running_loop().time()
            if now < self._unreadable_until.get(key, 0.0):
                return None
            if len(self._judged) + len(self._unreadable_until) >= _MOST_REMEMBERED:
                self._judged.clear()
                self._unreadable_until.clear()
            try:
                found = await self._suites.resolve(suite, tasks)
            except FleetError as error:
                self._unreadable_until[key] = now + _UNREADABLE_SECONDS
                _LOG.warning("suite_not_read_for_scaling", suite=suite, reason=error.reason, message=error.message)
                return None
            self._judged[key] = frozenset(each.name for each in found.tasks if each.spec.safety is not None)
        return self._judged[key]


def _placed(open_ones: Sequence[WorkT], next_count: int) -> list[WorkT]:
    """Return those that somebody works on, and of those that wait as many as one more replica would take."""
    waiting = [each for each in open_ones if each.state is RunState.PENDING]
    return [each for each in open_ones if each.state is not RunState.PENDING] + waiting[:next_count]
