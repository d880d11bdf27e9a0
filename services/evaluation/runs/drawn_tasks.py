"""Works on the tasks whose items the aggregation service draws, until their questions are decided."""

import asyncio
import dataclasses
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence, Set
from functools import partial

from services.evaluation.runs.accounts import Grant
from services.evaluation.runs.allowances import Allowance
from services.evaluation.runs.budget import BudgetKeeper, Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw, DrawingRequest, Drawings, Population
from services.evaluation.runs.outcome import ItemOutcome, Usage
from services.evaluation.runs.pipeline import ItemPipeline
from services.evaluation.runs.retry import wait_out

_BLOCK_ITEMS = 32
_MOST_DRAWS = 1024
_IN_FLIGHT_SHARE = 0.1
_ASK_AGAIN_SECONDS = 1.0
"""How long to wait for results that the next draws depend on, before asking whether another replica brought them."""


class DrawnTask:
    """One task: what is drawn, what waits to be asked, what is in flight and what is decided.

    At most 32 items, or a tenth of those that are likely to be needed, are asked or wait for the ledger's word: they
    are what an early decision wastes, also when the ledger is slower than the model. Where nobody can tell how many are
    needed, those that were begun stand for them.

    Attributes:
        decision: the latest; ``None`` before the first answer of the aggregation service.
        in_flight: the items being worked on.
        unsaved_count: outcomes that were handed to the ledger and are not yet acknowledged.
        is_unaffordable: the run's budget, or the caller's, has no room for another item of it.
    """

    def __init__(
        self,
        request: DrawingRequest,
        population: Population,
        pipeline: ItemPipeline,
        drawings: Drawings,
        *,
        patience_seconds: float,
    ) -> None:
        self.name = request.questions.task
        self.decision: TaskDecision | None = None
        self.in_flight: set[asyncio.Task[None]] = set()
        self.is_unaffordable = False
        self.begun_count = 0
        self.unsaved_count = 0
        self._request = request
        self._population = population
        self._pipeline = pipeline
        self._drawings = drawings
        self._patience_seconds = patience_seconds
        self._waiting: deque[Draw] = deque()
        self._next_index = 0
        self._awaited_count: int | None = None
        self._is_exhausted = False
        self._was_put_down = False

    @property
    def is_decided(self) -> bool:
        """Whether all of its questions are."""
        return self.decision is not None and self.decision.is_decided

    @property
    def wants_items(self) -> bool:
        """Whether further items are to be asked, now or later."""
        return not (self.is_decided or self.is_unaffordable or (self._is_exhausted and not self._waiting))

    @property
    def has_room(self) -> bool:
        """Whether one more item may be in flight."""
        if not self._request.questions.questions:
            return True
        expected = self.decision.expected_remaining_count if self.decision is not None else None
        needed = self.begun_count if expected is None else expected
        undecided = len(self.in_flight) + math.ceil(self.unsaved_count / self.sample_count)
        return undecided < max(_BLOCK_ITEMS, int(_IN_FLIGHT_SHARE * needed))

    @property
    def awaits_results(self) -> bool:
        """Whether the next draws depend on results that are not in yet."""
        completed = self.decision.completed_count if self.decision is not None else 0
        return self._awaited_count is not None and completed < self._awaited_count

    async def create(self) -> None:
        """Fix the order of its items, or find it as an earlier process has fixed it."""
        await wait_out(
            lambda: self._drawings.create(self._request, self._population.item_ids()),
            patience_seconds=self._patience_seconds,
        )

    def note(self, decision: TaskDecision) -> None:
        """Take in what is decided; answers may come out of order, so an older one is not taken."""
        known = self.decision
        if known is None or decision.completed_count >= known.completed_count or decision.is_decided:
            self.decision = decision

    async def next_draw(self, *, again: bool) -> Draw | None:
        """Take the next drawn item; ``None`` if it depends on results, or if there is none.

        Args:
            again: ask even though the results that were waited for have not come this way.
        """
        while not self._waiting:
            if self._is_exhausted or (self.awaits_results and not again):
                return None
            ask = partial(self._drawings.draw, self._request.run, self.name, self._next_index, _MOST_DRAWS)
            block = await wait_out(ask, patience_seconds=self._patience_seconds)
            self.note(block.decision)
            self._waiting.extend(block.draws)
            self._next_index += len(block.draws)
            self._is_exhausted = block.is_exhausted
            self._awaited_count = block.awaited_count
            if not block.draws:
                return None
        return self._waiting.popleft()

    def put_back(self, draw: Draw) -> None:
        """Return a draw that was not begun."""
        self._waiting.appendleft(draw)

    def put_down(self) -> None:
        """Cancel what is in flight, once."""
        if not self._was_put_down:
            self._was_put_down = True
            for job in self.in_flight:
                job.cancel()

    async def outcomes(self, draw: Draw) -> Sequence[ItemOutcome]:
        """Ask and judge one item; see ``ItemPipeline.outcomes``."""
        return await self._pipeline.outcomes(self._population.item(draw.position), draw.draw_index)

    @property
    def sample_count(self) -> int:
        """Outcomes that an item has."""
        return self._pipeline.sample_count


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
        self.used_up_allowance = False

    @property
    def has_failed(self) -> bool:
        """Whether a gate failed that ends everything."""
        return self._stops_at_failure and any(
            task.decision is not None and task.decision.has_failed for task in self._tasks
        )

    @property
    def ran_out(self) -> bool:
        """Whether the budget kept items from being asked."""
        return self._was_late or any(task.is_unaffordable for task in self._tasks)

    def note(self, decision: TaskDecision) -> None:
        """Take in what the aggregation service has decided."""
        if (task := self._by_name.get(decision.task)) is not None:
            task.note(decision)
            self._changed.set()

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
            again = False
            while not self._is_over():
                self._changed.clear()
                again = not (await self._begin_one(group, again=again) or await self._wait_for_change())
            for task in self._tasks:
                task.put_down()

    def _is_over(self) -> bool:
        """Whether nothing more is to be waited for; cancels what is in flight for questions that are decided."""
        for task in self._tasks:
            if task.is_decided:
                task.put_down()
        is_open = any(task.wants_items or task.in_flight for task in self._tasks)
        left = self._keeper.wall_seconds_left
        self._was_late = is_open and left is not None and left <= 0
        return self.has_failed or self._was_late or not is_open

    @property
    def _open_tasks(self) -> list[DrawnTask]:
        """Those that want items, the one that has had the fewest blocks first."""
        wanting = [task for task in self._tasks if task.wants_items]
        return sorted(wanting, key=lambda task: task.begun_count // _BLOCK_ITEMS)

    @property
    def _in_flight_count(self) -> int:
        return sum(len(task.in_flight) for task in self._tasks)

    async def _begin_one(self, group: asyncio.TaskGroup, *, again: bool) -> bool:
        """Begin one item if there is room, and report whether anything has moved."""
        if self._in_flight_count >= self._concurrency:
            return False
        for task in self._open_tasks:
            if not task.has_room or (draw := await task.next_draw(again=again)) is None:
                continue
            if all(self._is_known(task.name, draw, sample) for sample in range(task.sample_count)):
                task.begun_count += 1
                return True
            reserved = self._keeper.reserve(task.name, is_repeated=(task.name, draw.item_id) in self._repeated)
            if reserved is None:
                task.put_back(draw)
                # With nothing in flight nothing can be settled that would make room.
                task.is_unaffordable = not self._in_flight_count
                if task.is_unaffordable:
                    return True
                continue
            task.begun_count += 1
            job = group.create_task(self._work_on(task, draw, reserved))
            task.in_flight.add(job)
            job.add_done_callback(partial(self._end, task))
            return True
        return False

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
