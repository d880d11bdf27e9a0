"""Works on the tasks whose items the aggregation service draws, until their questions are decided."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence, Set
from functools import partial

from services.evaluation.runs.accounts import Grant
from services.evaluation.runs.allowances import Allowance
from services.evaluation.runs.block_account import BlockAccount
from services.evaluation.runs.block_sharing import BlockSharing
from services.evaluation.runs.blocks import BLOCK_ITEMS, part_of_others
from services.evaluation.runs.budget import BudgetKeeper, Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw
from services.evaluation.runs.drawn_task import DrawnTask
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.record import StopReason
from services.runtime.usage import Usage

_TURN_ITEMS = 32
_ASK_AGAIN_SECONDS = 1.0
"""How long to wait for results that the next draws depend on, before asking whether another replica brought them."""


class DrawnTasks:
    """Works on several drawn tasks in turns, a block of items each, under one budget.

    Attributes:
        used_up_allowance: the caller's budget of the day has kept items from being asked.

    Args:
        tasks: they share out the run's ``concurrency``.
        keeper: the run's budget.
        allowance: the caller's; None: it is not limited.
        repeated: (task, item) that an earlier run under the same budget has paid for.
        is_known: whether the ledger has an outcome for this sample of an item already.
        write: hands an outcome to the ledger; what it decides comes back through ``note``.
        stops_at_failure: whether the first gate that fails ends everything.
        sharing: hands blocks to helpers; None: nobody helps.
    """

    def __init__(
        self,
        tasks: Sequence[DrawnTask],
        keeper: BudgetKeeper,
        *,
        concurrency: int,
        is_known: Callable[[str, Draw, int], bool],
        write: Callable[[ItemOutcome], Awaitable[None]],
        stops_at_failure: bool,
        allowance: Allowance | None = None,
        repeated: Set[tuple[str, str]] = frozenset(),
        sharing: BlockSharing | None = None,
    ) -> None:
        self._tasks = tuple(tasks)
        self._by_name = {task.name: task for task in tasks}
        self._keeper = keeper
        self._concurrency = concurrency
        self._is_known = is_known
        self._write = write
        self._stops_at_failure = stops_at_failure
        self._changed = asyncio.Event()
        self._was_late = False
        self._allowance = allowance
        self._repeated = repeated
        self._sharing = sharing
        self.used_up_allowance = False

    @property
    def has_failed(self) -> bool:
        """Whether a gate failed that ends everything."""
        return self._stops_at_failure and any(
            task.decision is not None and task.decision.has_failed for task in self._tasks
        )

    def stop_reason(self, decisions: Sequence[TaskDecision]) -> StopReason:
        """Why it has ended, by its last decisions."""
        if all(each.is_exact for each in decisions):
            return StopReason.COMPLETE
        if self.has_failed:
            return StopReason.GATE_FAILED
        if all(each.is_decided for each in decisions):
            return StopReason.DECIDED
        return StopReason.CALLER_BUDGET_EXHAUSTED if self.used_up_allowance else StopReason.BUDGET_EXHAUSTED

    @property
    def ran_out(self) -> bool:
        """Whether the budget kept items from being asked."""
        return self._was_late or any(task.is_unaffordable for task in self._tasks)

    def note(self, decision: TaskDecision) -> TaskDecision:
        """Take in what the aggregation service has decided; return the newest that is known of the task."""
        task = self._by_name.get(decision.task)
        if task is None:
            return decision
        self._changed.set()
        return task.note(decision)

    def note_saved(self, outcomes: Sequence[ItemOutcome]) -> None:
        """Take in that the ledger has acknowledged outcomes; what it decided by them must come before the next item."""
        for outcome in outcomes:
            if (task := self._by_name.get(outcome.task)) is not None:
                task.unsaved_count -= 1
                self._changed.set()

    async def execute(self) -> None:
        """Ask items until every task is decided, used up or unaffordable, or one has failed that ends everything.

        What is in flight for a question that is decided is cancelled. On return the outcomes are written, though the
        ledger may not have acknowledged them yet.

        Raises:
            RunCannotGoOnError, FleetError: as an item or the aggregation service does.
        """
        for task in self._tasks:
            await task.create()
        async with asyncio.TaskGroup() as group:
            watching = None if self._sharing is None else group.create_task(self._sharing.watch())
            again = False
            while not self._is_over():
                self._changed.clear()
                again = not (await self._begin_one(group, again=again) or await self._wait_for_change())
            for task in self._tasks:
                task.put_down()
            if watching is not None:
                watching.cancel()
        if self._sharing is not None:
            await self._sharing.finish()

    def _is_over(self) -> bool:
        """Whether nothing more is to be waited for; cancels what is in flight for questions that are decided."""
        for task in self._tasks:
            if task.is_decided:
                task.put_down()
        is_open = any(task.wants_items or task.in_flight or task.shared for task in self._tasks)
        left = self._keeper.wall_seconds_left
        self._was_late = is_open and left is not None and left <= 0
        return self.has_failed or self._was_late or not is_open

    @property
    def _open_tasks(self) -> list[DrawnTask]:
        """Those that want items, the one that has had the fewest blocks first."""
        wanting = [task for task in self._tasks if task.wants_items]
        return sorted(wanting, key=lambda task: task.begun_count // _TURN_ITEMS)

    @property
    def _own_count(self) -> int:
        return sum(len(task.in_flight) for task in self._tasks)

    @property
    def _shared_count(self) -> int:
        return sum(task.shared_count for task in self._tasks)

    async def _begin_one(self, group: asyncio.TaskGroup, *, again: bool) -> bool:
        """Begin one item, or one block at a helper, if there is room, and report whether anything has moved."""
        left = self._concurrency - self._own_count - self._shared_count
        if left <= 0:
            return False
        helper_count = 0 if self._sharing is None else self._sharing.helper_count
        others = part_of_others(self._concurrency, helper_count)
        if self._sharing is not None and left >= BLOCK_ITEMS <= others - self._shared_count:
            if await self._begin_block(group, self._sharing, helper_count):
                return True
            # There is none to give: no place is kept for it.
            others = helper_count = 0
        if self._own_count >= self._concurrency - others:
            return False
        for task in self._open_tasks:
            if not task.has_room(helper_count) or (draw := await task.next_draw(again=again)) is None:
                continue
            if all(self._is_known(task.name, draw, sample) for sample in range(task.sample_count)):
                task.begun_count += 1
                return True
            reserved = self._keeper.reserve(task.name, is_repeated=(task.name, draw.item_id) in self._repeated)
            if reserved is None:
                task.put_back(draw)
                # With nothing in flight nothing can be settled that would make room.
                task.is_unaffordable = not (self._own_count or self._shared_count)
                if task.is_unaffordable:
                    return True
                continue
            task.begun_count += 1
            job = group.create_task(self._work_on(task, draw, reserved))
            task.in_flight.add(job)
            job.add_done_callback(partial(self._end, task))
            return True
        return False

    async def _begin_block(self, group: asyncio.TaskGroup, sharing: BlockSharing, helper_count: int) -> bool:
        for task in self._open_tasks:
            if not task.has_room_for_block(helper_count):
                continue
            draws = await task.next_block(partial(self._is_fresh, task))
            if not draws:
                continue
            reserved = self._keeper.reserve_block(task.name, len(draws))
            if reserved is None:
                # The last items that fit are asked one by one.
                task.put_back(*draws)
                continue
            account = BlockAccount(self._keeper, reserved, len(draws), self._allowance)
            if not await account.admit():
                account.give_back()
                task.put_back(*draws)
                sharing.pause()
                return False
            task.begun_count += len(draws)
            task.blocks.append(account)
            job = group.create_task(self._share(sharing, task, draws, account))
            task.shared.add(job)
            job.add_done_callback(partial(self._end_block, task, account))
            return True
        return False

    def _is_fresh(self, task: DrawnTask, draw: Draw) -> bool:
        """Whether the ledger has nothing of an item, nor an earlier run under the same budget."""
        has_some = any(self._is_known(task.name, draw, sample) for sample in range(task.sample_count))
        return not has_some and (task.name, draw.item_id) not in self._repeated

    async def _share(
        self, sharing: BlockSharing, task: DrawnTask, draws: Sequence[Draw], account: BlockAccount
    ) -> None:
        def on_done(item_count: int, spent: Spend | None) -> None:
            account.settle(item_count, spent)
            self._changed.set()

        left = await sharing.share(task.name, draws, task.sample_count, on_done, account.note_taken)
        account.give_back()
        task.begun_count -= len(left)
        task.put_back(*left)

    def _end_block(self, task: DrawnTask, account: BlockAccount, job: asyncio.Task[None]) -> None:
        # Not in the job itself, which does not run at all if it is cancelled at once.
        account.cancel()
        task.blocks.remove(account)
        task.shared.discard(job)
        self._changed.set()

    def _end(self, task: DrawnTask, job: asyncio.Task[None]) -> None:
        task.in_flight.discard(job)
        self._changed.set()

    async def _work_on(self, task: DrawnTask, draw: Draw, reserved: Spend) -> None:
        grant: Grant | None = None
        if self._allowance is not None:
            try:
                grant = await self._allowance.reserve(dataclasses.replace(reserved, items=1))
            finally:
                if grant is None:
                    self._keeper.give_back(task.name, reserved)
            if grant is None:
                task.is_unaffordable = self.used_up_allowance = True
                return
        actual: Spend | None = None
        try:
            outcomes = await task.outcomes(draw)
            actual = Spend.of_item(sum((outcome.usage for outcome in outcomes), Usage()))
            for outcome in outcomes:
                if not self._is_known(task.name, draw, outcome.sample):
                    task.unsaved_count += 1
                    await self._write(outcome)
        finally:
            own = None if actual is None else dataclasses.replace(actual, items=reserved.items)
            self._keeper.settle(task.name, reserved, own)
            if self._allowance is not None and grant is not None:
                self._allowance.settle(grant, actual)

    async def _wait_for_change(self) -> bool:
        """Wait until an item is done, something is decided or time is up; False if none of it came for a while."""
        left = self._keeper.wall_seconds_left
        longest = _ASK_AGAIN_SECONDS if left is None else min(_ASK_AGAIN_SECONDS, max(0.0, left))
        try:
            async with asyncio.timeout(longest):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
