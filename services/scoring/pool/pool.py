"""A pool of processes for heavy scorers: none outlives the time of its output, and those that die are replaced."""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.runtime.places import Places
from services.scoring.contract import Output, Score, ScoringItem
from services.scoring.errors import ScorerCrashedError, ScorerMemoryError, ScorerTimeoutError
from services.scoring.pool.work import decode_answer, encode_work
from services.scoring.pool.worker_process import WorkerDiedError, WorkerProcess, preload, start_worker
from services.scoring.registry import BoundScorer

_ATTEMPTS: Final = 2
"""Of an output whose process dies: the kernel, short of memory, may have taken it for its neighbour's sake. Or of one
whose process has no memory left: what it judged before may have left some behind, in the caches of a library."""
_MOST_GROWTH: Final = 0.5
"""Share of its room for growth that a worker may have used before another one replaces it."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds on a pool.

    Attributes:
        workers: processes at most; they are started when they are needed.
        output_seconds: longest time over one output, without that of waiting for a worker.
        memory_bytes: address space of one worker.
    """

    workers: int = 2
    output_seconds: float = 30.0
    memory_bytes: int = 4 * 1024**3


class ScorerPool:
    """Judges with heavy scorers; a worker judges one output at a time, so that none has neighbours to take down.

    Args:
        limits: bounds on the pool.
        preloaded: names of the modules that every worker needs, so that one which replaces another has them at once.
        metrics: receives the pool's metrics.
    """

    def __init__(
        self,
        limits: PoolLimits | None = None,
        *,
        preloaded: Iterable[str] = (),
        metrics: CollectorRegistry | None = None,
    ) -> None:
        self._limits = limits or PoolLimits()
        preload(preloaded)
        self._places = Places(self._limits.workers)
        self._idle: list[WorkerProcess] = []
        self._chores: set[asyncio.Task[object]] = set()
        self._is_closed = False
        self._ended_early = Counter(
            "evalfleet_scoring_pool_ended_workers",
            "Processes that ended before their output was judged.",
            labelnames=["cause"],
            registry=metrics,
        )
        Gauge(
            "evalfleet_scoring_pool_waiting_outputs", "Outputs that wait for a process of the pool.", registry=metrics
        ).set_function(lambda: self._places.waiting)

    async def score(self, bound: BoundScorer, item: ScoringItem, output: Output) -> Score:
        """Judge one output when the caller's turn comes; its worker ends with whoever waits for it.

        Raises:
            FleetError: what the scorer raised.
            ScorerTimeoutError: it took too long.
            ScorerCrashedError: its process died, twice.
            ScorerMemoryError: it used up the memory of a process that judged nothing before.
            WorkerBugError: it has a bug.
        """
        name = bound.scorer.about.name
        work = encode_work(bound, item, output)
        async with self._places.place():
            return await self._ask_twice(name, work)

    async def close(self) -> None:
        """End all workers; nothing may be asked any more."""
        self._is_closed = True
        while self._idle:
            self._do(self._idle.pop().end())
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def _ask_twice(self, name: str, work: bytes) -> Score:
        ending = ""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._ask(work, must_be_fresh=attempt > 0)
            except TimeoutError:
                self._ended_early.labels("timeout").inc()
                raise ScorerTimeoutError(name, self._limits.output_seconds) from None
            except MemoryError:
                self._ended_early.labels("memory").inc()
                if attempt == _ATTEMPTS - 1:
                    raise ScorerMemoryError(name) from None
            except WorkerDiedError as death:
                ending = str(death)
                self._ended_early.labels("death").inc()
                structlog.get_logger(__name__).warning("scorer_process_died", scorer=name, ending=ending)
        raise ScorerCrashedError(name, ending)

    async def _ask(self, work: bytes, *, must_be_fresh: bool) -> Score:
        worker = await (self._start() if must_be_fresh else self._take())
        try:
            async with asyncio.timeout(self._limits.output_seconds):
                outcome = decode_answer(await worker.ask(work))
        except WorkerDiedError:
            raise
        except BaseException:
            # It is still at it, whoever waited having given up.
            self._do(worker.end())
            raise
        if isinstance(outcome, MemoryError):
            # What it was doing may stay half done, such as an import.
            self._do(worker.end())
        else:
            self._keep(worker)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _take(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if not worker.has_ended:
                return worker
            self._do(worker.end())
        return await self._start()

    async def _start(self) -> WorkerProcess:
        starting = asyncio.create_task(start_worker(self._limits.memory_bytes))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It starts all the same: the next one will need it.
            self._do(self._keep_when_started(starting))
            raise

    async def _keep_when_started(self, starting: asyncio.Task[WorkerProcess]) -> None:
        self._keep(await starting)

    def _keep(self, worker: WorkerProcess) -> None:
        if self._is_closed or len(self._idle) >= self._limits.workers or worker.growth > _MOST_GROWTH:
            self._do(worker.end())
        else:
            self._idle.append(worker)

    def _do(self, chore: Coroutine[None, None, object]) -> None:
        """Have something done that nobody waits for."""
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
