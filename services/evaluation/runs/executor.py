"""Executes one run: every item of every task, a bounded number at once, skipping what the ledger already has."""

import asyncio
import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial

import structlog

from services.evaluation.runs.allowances import Allowance
from services.evaluation.runs.block_sharing import BlockSharing
from services.evaluation.runs.blocks import LEAST_PLACES, BlockBoard
from services.evaluation.runs.budget import BudgetKeeper, Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw
from services.evaluation.runs.drawn_task import DrawnTask, drawn_task_of
from services.evaluation.runs.drawn_tasks import DrawnTasks
from services.evaluation.runs.fatal_errors import RunCannotGoOnError
from services.evaluation.runs.gates import Depth, TaskQuestions, questions_of
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.open_shards import ShardTask
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.pipeline import ItemPipeline, pipeline_of
from services.evaluation.runs.record import Run, RunState, StopReason, TaskProgress
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.shard_work import ShardCrew
from services.evaluation.runs.shards import OwnBoard, ShardBoard, ShardPlan
from services.evaluation.runs.task_items import TaskItems
from services.runtime.errors import FailedPreconditionError, FleetError, UnavailableError

_CONFIRM_SECONDS = 5.0

_LOG = structlog.stdlib.get_logger(__name__)


class RunExecutor:
    """Takes one run from where the ledger has it to its end."""

    def __init__(
        self,
        run: Run,
        peers: Peers,
        *,
        on_change: Callable[[Run], None],
        patience_seconds: float,
        earlier_runs: Mapping[str, Sequence[str]] | None = None,
        allowance: Allowance | None = None,
        board: ShardBoard | None = None,
        blocks: BlockBoard | None = None,
    ) -> None:
        self._run = run
        self._blocks = blocks
        self._board = board or OwnBoard()
        self._crew: ShardCrew | None = None
        self._plan = ShardPlan(())
        self._peers = peers
        self._on_change = on_change
        self._patience_seconds = patience_seconds
        self._earlier_runs = earlier_runs or {}
        self._allowance = allowance if run.goal.has_caller_budget else None
        self._known = KnownOutcomes({})
        self._scored: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._tasks: tuple[TaskItems, ...] = ()
        self._pipelines: dict[str, ItemPipeline] = {}
        self._questions: Mapping[str, TaskQuestions] = {}
        self._drawn: DrawnTasks | None = None
        self._keeper: BudgetKeeper | None = None
        self._repeated: Set[tuple[str, str]] = frozenset()
        self._repeated_counts: Counter[str] = Counter()

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
        self._questions = questions_of(self._run.goal, [each.task for each in tasks])
        self._pipelines = {
            each.task.name: pipeline_of(self._run, each.task, self._peers, patience_seconds=self._patience_seconds)
            for each in tasks
        }
        self._known = KnownOutcomes({name: each.sample_count for name, each in self._pipelines.items()})
        self._plan = ShardPlan(
            (each.task.name, len(each.items), self._pipelines[each.task.name].sample_count) for each in self._full_tasks
        )
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
            LedgerReplacedError: the ledger may have lost outcomes; another executor may go on with those it has.
            FleetError: the run cannot go on.
        """
        await self._confirm_ledger()
        before = await wait_out(self._board.standing, patience_seconds=self._patience_seconds)
        self._repeated = await wait_out(self._read_repeated, patience_seconds=self._patience_seconds)
        await self._read_ledger()
        self._plan.check(before, self._run.name)
        writer = LedgerWriter(
            self._peers.ledger,
            self._run.name,
            on_saved=self._count,
            on_decision=self._note_decision,
            patience_seconds=self._patience_seconds,
        )
        await self._prepare_drawn(writer)
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch_ledger())
                saving = group.create_task(writer.drain())
                await self._all_items(writer)
                await saving
                watching.cancel()
        except* (FleetError, RunCannotGoOnError) as errors:
            # A ledger that has lost something is the first to blame, whatever else went wrong.
            with contextlib.suppress(UnavailableError):
                await self._peers.ledger.append(self._run.name, ())
            first = errors.exceptions[0]
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise (first.error if isinstance(first, RunCannotGoOnError) else first) from None
        await self._conclude()

    async def _watch_ledger(self) -> None:
        """Notice that the ledger has lost something also while nothing is appended: all may wait for what is gone."""
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            await self._confirm_ledger()

    async def _confirm_ledger(self) -> None:
        confirm = partial(self._peers.ledger.append, self._run.name, ())
        await wait_out(confirm, patience_seconds=self._patience_seconds)

    async def _prepare_drawn(self, writer: LedgerWriter) -> None:
        """Take up the tasks whose items are drawn, with what an earlier process has spent."""
        tasks = self._drawn_tasks()
        if not tasks:
            return
        began = self._run.start_time or time.time()
        earlier: Mapping[str, Spend] = {}
        if self._run.goal.is_metered and self._known:
            read = partial(self._peers.ledger.findings, self._run.name)
            found = await wait_out(read, patience_seconds=self._patience_seconds)
            # Items that the tier before has paid for are no further ones.
            earlier = {
                task: each.spent - Spend(min(each.spent.items, self._repeated_counts[task]))
                for task, each in found.items()
            }
        keeper = BudgetKeeper(
            self._run.goal.budget,
            spent=sum(earlier.values(), Spend()),
            now=lambda: max(0.0, time.time() - began),
            probes=self._allowance is not None and self._allowance.budget.limit.limits_cost,
        )
        for task, spend in earlier.items():
            if spend.items:
                keeper.learn(task, spend.mean)
        self._keeper = keeper
        self._drawn = DrawnTasks(
            tasks,
            keeper,
            concurrency=self._run.concurrency,
            is_known=self._is_known,
            write=writer.write,
            stops_at_failure=self._run.goal.stops_at_failure,
            allowance=self._allowance,
            repeated=self._repeated,
            sharing=self._sharing(),
        )

    def _drawn_tasks(self) -> Sequence[DrawnTask]:
        return [
            drawn_task_of(
                self._run,
                each,
                self._pipelines[each.task.name],
                self._questions[each.task.name],
                self._peers.drawings,
                earlier_runs=self._earlier_runs.get(each.task.name, ()),
                patience_seconds=self._patience_seconds,
            )
            for each in self._tasks
            if each.task.name in self._questions
        ]

    def _sharing(self) -> BlockSharing | None:
        """What hands drawn items to helpers, where a run is large enough and has other replicas beside it."""
        if self._blocks is None or self._run.concurrency < LEAST_PLACES:
            return None
        return BlockSharing(
            self._run.name,
            self._blocks,
            self._peers.ledger,
            self._peers.drawings,
            self._known,
            on_counts=self._count_shared,
            on_decision=self._note_decision,
            patience_seconds=self._patience_seconds,
        )

    async def _read_repeated(self) -> Set[tuple[str, str]]:
        """The items that the tier before has paid for, where all tiers share a budget."""
        escalation = self._run.escalation
        if not self._questions or self._run.goal.depth != Depth():
            # Nothing is drawn, or these are other answers, by other judges.
            return frozenset()
        if escalation is None or not escalation.earlier_run or not escalation.wish.budget.is_limited:
            return frozenset()
        return {(key.task, key.item) async for key in self._peers.ledger.keys(escalation.earlier_run)}

    async def _conclude(self) -> None:
        """Read the last decisions and note why the run has ended, with nothing lost that was acknowledged since."""
        await self._confirm_ledger()
        if self._drawn is None:
            self._change(dataclasses.replace(self._run, stop_reason=StopReason.COMPLETE))
            return
        read = partial(self._peers.drawings.decisions, self._run.name)
        for decision in await wait_out(read, patience_seconds=self._patience_seconds):
            self._note_decision(decision)
        self._change(dataclasses.replace(self._run, stop_reason=self._drawn.stop_reason(self._run.decisions)))

    async def _read_ledger(self) -> None:
        """Learn which outcomes exist already, so that nothing is asked twice after a restart."""

        async def read() -> None:
            # Counted as they come: a second attempt counts nothing twice.
            async for key in self._peers.ledger.keys(self._run.name):
                if self._count_one(key.task, key.draw_index, key.sample, failed=key.failed):
                    self._plan.note(key.task, key.draw_index, failed=key.failed)
                    self._repeated_counts[key.task] += key.sample == 0 and (key.task, key.item) in self._repeated

        await wait_out(read, patience_seconds=self._patience_seconds)
        self._count_done()
        if self._known:
            _LOG.info("run_resumed", run=self._run.name, outcomes=len(self._known))

    async def _all_items(self, writer: LedgerWriter) -> None:
        if self._drawn is not None:
            await self._drawn.execute()
        if self._drawn is None or not self._drawn.has_failed:
            await self._all_shards(writer)
        await writer.finish()

    async def _all_shards(self, writer: LedgerWriter) -> None:
        """Work on the tasks that are run in full, together with whoever helps."""
        full = self._full_tasks
        if not full:
            return
        await wait_out(partial(self._board.plan, self._plan.shards()), patience_seconds=self._patience_seconds)
        crew = ShardCrew(
            self._run.name,
            {each.task.name: ShardTask(self._pipelines[each.task.name], each.items) for each in full},
            self._board,
            self._peers.ledger,
            self._known,
            concurrency=self._run.concurrency,
            is_owner=True,
            patience_seconds=self._patience_seconds,
        )
        self._crew = crew
        await crew.work(writer.write, self._count_done)

    @property
    def _full_tasks(self) -> Sequence[TaskItems]:
        """Those without questions."""
        return [each for each in self._tasks if each.task.name not in self._questions]

    def _is_known(self, task: str, draw: Draw, sample: int) -> bool:
        return self._known.has(task, draw.draw_index, sample)

    def _count_shared(self, task: str, scored: int, failed: int) -> None:
        self._scored[task] += scored
        self._failed[task] += failed
        self._count_done()

    def _note_decision(self, decision: TaskDecision) -> None:
        if self._drawn is not None:
            decision = self._drawn.note(decision)
        self._change(self._run.with_decision(decision))

    def _count(self, outcomes: Sequence[ItemOutcome]) -> None:
        if self._crew is not None:
            self._crew.note(outcomes)
        for each in outcomes:
            if each.task in self._questions:
                self._count_one(each.task, each.draw_index, each.sample, failed=each.failure is not None)
        if self._drawn is not None:
            self._drawn.note_saved(outcomes)
        self._count_done()

    def _count_one(self, task: str, draw_index: int, sample: int, *, failed: bool) -> bool:
        is_new = self._known.add(task, draw_index, sample)
        if is_new:
            (self._failed if failed else self._scored)[task] += 1
        return is_new

    def _count_done(self) -> None:
        """Put what was counted into the run's progress."""
        progress = tuple(self._counted(each) for each in self._run.progress)
        if progress != self._run.progress:
            self._change(dataclasses.replace(self._run, progress=progress))

    def _counted(self, progress: TaskProgress) -> TaskProgress:
        task = progress.task
        scored, failed = self._scored[task], self._failed[task]
        if self._crew is not None and task not in self._questions:
            # What the ledger had before is in the shards.
            scored, failed = self._crew.counts(task)
        return dataclasses.replace(progress, scored_count=scored, failed_count=failed)

    def _change(self, run: Run) -> None:
        if self._keeper is not None and run.goal.is_metered:
            run = dataclasses.replace(run, spent=self._keeper.spent)
        self._run = run
        self._on_change(run)
