"""One task whose items the aggregation service draws: what is drawn, in flight and decided."""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from services.evaluation.runs.block_account import BlockAccount
from services.evaluation.runs.blocks import BLOCK_ITEMS, part_of_others
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw, DrawingRequest, Drawings, Population
from services.evaluation.runs.gates import TaskQuestions
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.pipeline import ItemPipeline
from services.evaluation.runs.record import Run
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.task_items import TaskItems
from services.runtime.errors import InternalError

_LEAST_UNDECIDED: Final = 32
_MOST_DRAWS: Final = 1024
_IN_FLIGHT_SHARE: Final = 0.1


class DrawnTask:
    """One task: what is drawn, what waits to be asked, what is in flight and what is decided.

    At most 32 items, or a tenth of those that are likely to be needed, are asked or wait for the ledger's word: they
    are what an early decision wastes, also when the ledger is slower than the model. Where nobody can tell how many are
    needed, those that were begun stand for them.

    Attributes:
        decision: the latest; ``None`` before the first answer of the aggregation service.
        in_flight: the items being worked on here.
        shared: the blocks being worked on by helpers.
        blocks: what they cost and how many of their items are not done.
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
        self.shared: set[asyncio.Task[None]] = set()
        self.blocks: list[BlockAccount] = []
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
    def own_count(self) -> int:
        """Items that are asked here, or whose outcomes wait for the ledger's word."""
        return len(self.in_flight) + math.ceil(self.unsaved_count / self.sample_count)

    @property
    def shared_count(self) -> int:
        """Items that helpers have in flight."""
        return sum(block.open_count for block in self.blocks)

    @property
    def most_undecided(self) -> int | None:
        """How many items may be undecided, here and at helpers; ``None``: any number, since nothing is asked."""
        if not self._request.questions.questions:
            return None
        expected = self.decision.expected_remaining_count if self.decision is not None else None
        needed = self.begun_count if expected is None else expected
        return max(_LEAST_UNDECIDED, int(_IN_FLIGHT_SHARE * needed))

    def has_room(self, helper_count: int) -> bool:
        """Whether one more item may be asked here, beside what is left to helpers."""
        most = self.most_undecided
        if most is None:
            return True
        return self.own_count < most - part_of_others(most, helper_count) and self.own_count + self.shared_count < most

    def has_room_for_block(self, helper_count: int) -> bool:
        """Whether one more block may be given to helpers."""
        most = self.most_undecided
        if most is None:
            return True
        shared = self.shared_count + BLOCK_ITEMS
        return shared <= part_of_others(most, helper_count) and self.own_count + shared <= most

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

    def note(self, decision: TaskDecision) -> TaskDecision:
        """Take in what is decided; answers may come out of order, so an older one is not taken. Return the newest."""
        known = self.decision
        if known is None or decision.completed_count >= known.completed_count or decision.is_decided:
            self.decision = known = decision
        return known

    async def next_draw(self, *, again: bool) -> Draw | None:
        """Take the next drawn item; ``None`` if it depends on results, or if there is none.

        Args:
            again: ask even though the results that were waited for have not come this way.
        """
        while not self._waiting:
            if self._is_exhausted or (self.awaits_results and not again) or not await self._ask_for_draws():
                return None
        return self._waiting.popleft()

    async def next_block(self, is_fresh: Callable[[Draw], bool]) -> Sequence[Draw]:
        """Take the next draws for a helper; none if too few fresh ones follow each other."""
        if len(self._waiting) < BLOCK_ITEMS and not (self._is_exhausted or self.awaits_results):
            await self._ask_for_draws()
        block = list(itertools.islice(self._waiting, BLOCK_ITEMS))
        if len(block) < BLOCK_ITEMS or block[-1].draw_index - block[0].draw_index != BLOCK_ITEMS - 1:
            return ()
        if not all(is_fresh(draw) for draw in block):
            return ()
        for _ in block:
            self._waiting.popleft()
        return block

    async def _ask_for_draws(self) -> bool:
        ask = partial(self._drawings.draw, self._request.run, self.name, self._next_index, _MOST_DRAWS)
        block = await wait_out(ask, patience_seconds=self._patience_seconds)
        self.note(block.decision)
        self._waiting.extend(block.draws)
        self._next_index += len(block.draws)
        self._is_exhausted = block.is_exhausted
        self._awaited_count = block.awaited_count
        return bool(block.draws)

    def put_back(self, *draws: Draw) -> None:
        """Return draws that were not begun."""
        self._waiting.extendleft(reversed(draws))

    def put_down(self) -> None:
        """Cancel what is in flight, here and at helpers, once."""
        if not self._was_put_down:
            self._was_put_down = True
            for job in (*self.in_flight, *self.shared):
                job.cancel()

    async def outcomes(self, draw: Draw) -> Sequence[ItemOutcome]:
        """Ask and judge one item; see ``ItemPipeline.outcomes``."""
        return await self._pipeline.outcomes(self._population.item(draw.position), draw.draw_index)

    @property
    def sample_count(self) -> int:
        """Outcomes that an item has."""
        return self._pipeline.sample_count


def drawn_task_of(
    run: Run,
    items: TaskItems,
    pipeline: ItemPipeline,
    questions: TaskQuestions,
    drawings: Drawings,
    *,
    earlier_runs: Sequence[str],
    patience_seconds: float,
) -> DrawnTask:
    """A task of a run that has questions; ``earlier_runs`` may tell which of its items are worth asking first."""
    if items.population is None:
        raise InternalError(f"the items of task {items.task.name} cannot be drawn")
    request = DrawingRequest(
        run=run.name,
        seed=run.seed,
        model=run.model,
        model_digest=run.model_digest,
        data_digest=items.data_digest,
        sample_count=pipeline.sample_count,
        uses_history=run.goal.uses_history,
        earlier_runs=tuple(earlier_runs),
        previous_run=run.goal.previous_run,
        questions=questions,
    )
    return DrawnTask(request, items.population, pipeline, drawings, patience_seconds=patience_seconds)
