"""Executes one run: every item of every task, a bounded number at once, skipping what the ledger already has."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import Generator, Ledger, SafetyJudge, ScorerPanel
from services.evaluation.runs.pipeline import ItemPipeline, RunCannotGoOnError
from services.evaluation.runs.record import Run, RunState, TaskProgress
from services.evaluation.runs.retry import wait_out
from services.evaluation.tasks import Task
from services.runtime.errors import FailedPreconditionError, FleetError

_LOG = structlog.stdlib.get_logger(__name__)

OutcomeKey = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Peers:
    """The four services that a run is made with."""

    generator: Generator
    safety: SafetyJudge
    scorers: ScorerPanel
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class TaskItems:
    """A task and its items in the order in which this run draws them, already cut to the run's limit.

    ``data_digest`` covers definition and rows; a run does not go on with other data than it began with.
    """

    task: Task
    items: Sequence[Item | InvalidItem]
    data_digest: str


@dataclass(frozen=True, slots=True)
class _Work:
    pipeline: ItemPipeline
    item: Item | InvalidItem
    draw_index: int


class RunExecutor:
    """Takes one run from where the ledger has it to its end."""

    def __init__(self, run: Run, peers: Peers, *, on_change: Callable[[Run], None], patience_seconds: float) -> None:
        self._run = run
        self._peers = peers
        self._on_change = on_change
        self._patience_seconds = patience_seconds
        self._known: set[OutcomeKey] = set()
        self._tasks: tuple[TaskItems, ...] = ()
        self._pipelines: dict[str, ItemPipeline] = {}

    @property
    def run(self) -> Run:
        """The run as it stands."""
        return self._run

    def begin(self, tasks: Sequence[TaskItems]) -> None:
        """Take on the tasks; save ``run`` before ``execute``, so that a restart can tell whether data were changed.

        Raises:
            FailedPreconditionError: the run was begun with other data.
        """
        earlier = {each.task: each.data_digest for each in self._run.progress if each.data_digest}
        for each in tasks:
            if earlier.get(each.task.name, each.data_digest) != each.data_digest:
                raise FailedPreconditionError(
                    f"the data of task {each.task.name!r} was changed while the run was in progress; start a new run",
                    reason="DATA_CHANGED",
                    metadata={"task": each.task.name},
                )
        self._tasks = tuple(tasks)
        self._pipelines = {each.task.name: self._pipeline(each.task) for each in tasks}
        progress = tuple(
            TaskProgress(
                each.task.name,
                item_count=len(each.items) * self._pipelines[each.task.name].sample_count,
                data_digest=each.data_digest,
            )
            for each in tasks
        )
        self._change(
            dataclasses.replace(
                self._run, state=RunState.RUNNING, start_time=self._run.start_time or time.time(), progress=progress
            )
        )

    async def execute(self) -> None:
        """Give every item its outcome. Cancelling this leaves the run to be resumed later.

        Raises:
            FleetError: the run cannot go on.
        """
        await self._read_ledger()
        writer = LedgerWriter(
            self._peers.ledger, self._run.name, on_saved=self._count, patience_seconds=self._patience_seconds
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(writer.drain())
                group.create_task(self._all_items(writer))
        except* (FleetError, RunCannotGoOnError) as errors:
            first = errors.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise (first.error if isinstance(first, RunCannotGoOnError) else first) from None

    def _pipeline(self, task: Task) -> ItemPipeline:
        return ItemPipeline(
            task,
            model=self._run.model,
            seed=self._run.seed,
            generator=self._peers.generator,
            safety=self._peers.safety,
            scorers=self._peers.scorers,
            patience_seconds=self._patience_seconds,
        )

    async def _read_ledger(self) -> None:
        """Learn which outcomes exist already, so that nothing is asked twice after a restart."""

        async def read() -> list[tuple[OutcomeKey, bool]]:
            return [
                ((key.task, key.item, key.sample), key.failed) async for key in self._peers.ledger.keys(self._run.name)
            ]

        for key, failed in await wait_out(read, patience_seconds=self._patience_seconds):
            self._count_key(key, failed=failed)
        if self._known:
            _LOG.info("run_resumed", run=self._run.name, outcomes=len(self._known))

    def _open_work(self) -> Iterator[_Work]:
        for each in self._tasks:
            pipeline = self._pipelines[each.task.name]
            for draw_index, item in enumerate(each.items):
                keys = ((each.task.name, item.item_id, sample) for sample in range(pipeline.sample_count))
                if not all(key in self._known for key in keys):
                    yield _Work(pipeline, item, draw_index)

    async def _all_items(self, writer: LedgerWriter) -> None:
        work = self._open_work()

        async def worker() -> None:
            for each in work:
                for outcome in await each.pipeline.outcomes(each.item, each.draw_index):
                    if (outcome.task, outcome.item, outcome.sample) not in self._known:
                        await writer.write(outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._run.concurrency):
                group.create_task(worker())
        await writer.finish()

    def _count(self, outcome: ItemOutcome) -> None:
        self._count_key((outcome.task, outcome.item, outcome.sample), failed=outcome.failure is not None)

    def _count_key(self, key: OutcomeKey, *, failed: bool) -> None:
        if key in self._known:
            return
        self._known.add(key)
        for progress in self._run.progress:
            if progress.task == key[0]:
                changed = (
                    dataclasses.replace(progress, failed_count=progress.failed_count + 1)
                    if failed
                    else dataclasses.replace(progress, scored_count=progress.scored_count + 1)
                )
                self._change(self._run.with_progress(changed))

    def _change(self, run: Run) -> None:
        self._run = run
        self._on_change(run)
