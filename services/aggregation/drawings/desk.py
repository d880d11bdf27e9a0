"""Hands out a ledger's drawings: keeps those at work in memory, and everything that counts in the database."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from services.aggregation.drawings.errors import DrawIndexError, DrawingExistsError
from services.aggregation.drawings.history import gather
from services.aggregation.drawings.orders import order_digest, order_seed
from services.aggregation.drawings.records import (
    Batch,
    Drawing,
    DrawingSpec,
    DrawnItems,
    DrawnScores,
    TaskDecision,
)
from services.aggregation.drawings.sequencer import Sequencer
from services.aggregation.drawings.store import DrawingStore, NewDrawing
from services.aggregation.errors import LedgerReplacedError
from services.aggregation.records import Result
from services.runtime.database import unbroken
from services.runtime.errors import not_found

_MOST_ITEMS_AT_WORK = 2_000_000
# Items that are looked up at once. No result behind a hole in the prefix can count, so a look need not go further.
_LOOK_AHEAD = 256
# Beyond, reading all results of the task is cheaper than looking each item up.
_MOST_LOOKED_UP = 5000
_MOST_UNDRAWN = 10_000


@dataclass(slots=True)
class _Work:
    """A drawing and what is known of it."""

    drawing: Drawing
    sequencer: Sequencer


@dataclass(slots=True)
class _Place:
    """Where a drawing is worked on, by one caller at a time.

    Attributes:
        work: ``None`` meanwhile, and after an error.
        is_drawn: there is a drawing.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    work: _Work | None = None
    is_drawn: bool = False


class DrawingDesk:
    """Creates drawings, draws items, and says what results decide.

    Several processes may do this over one database: which batch counts is decided by its primary key, and whoever lost
    starts again from what is stored. Nothing in memory is needed to go on.

    Args:
        store: where drawings are.
        most_items: items of drawings at work that are kept in memory, 100 to 500 bytes each, the most with history; the
            least recently used drawings go.
    """

    def __init__(self, store: DrawingStore, *, most_items: int = _MOST_ITEMS_AT_WORK) -> None:
        self._store = store
        self._most_items = most_items
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._undrawn: set[tuple[str, str]] = set()

    async def create(self, spec: DrawingSpec, item_ids: Sequence[str]) -> Drawing:
        """Fix a task's order and questions; the same again returns what is there.

        What is named as history does not make a drawing another one: what it found when it was created stays.

        Raises:
            DrawingExistsError: there is another drawing of this task.
            LateDrawingError: the task has results already.
        """
        seed = order_seed(spec)
        digest = await asyncio.to_thread(order_digest, seed, item_ids)
        found = await self._store.find(spec.run, spec.task)
        if found is None:
            past = await gather(self._store, spec, item_ids, seed)
            now = time.time_ns() // 1000
            await self._store.create(NewDrawing(spec, tuple(item_ids), seed, digest, past, now))
            found = await self._store.find(spec.run, spec.task)
        if found is None or _identity(found.spec) != _identity(spec) or found.order_digest != digest:
            raise DrawingExistsError(spec.run, spec.task)
        return found

    async def draw(self, run: str, task: str, first: int, count: int) -> DrawnItems:
        """Return up to ``count`` items from the draw index ``first`` on; none if the next batch waits for results.

        Raises:
            NotFoundError: the task has no drawing.
            DrawIndexError: ``first`` lies beyond what was drawn.
        """
        return await unbroken(self._draw(run, task, first, count))

    async def scores(self, run: str, task: str) -> DrawnScores:
        """Return the scores of the completed prefix of draws.

        Raises:
            NotFoundError: the task has no drawing.
        """
        return await unbroken(self._read_scores(run, task))

    async def decisions(self, run: str, task: str | None = None) -> list[TaskDecision]:
        """Return what the results of a run decide, by task.

        Raises:
            NotFoundError: the task is given and has no drawing.
            RunDeletedError: the results of the run were deleted.
        """
        drawn = await self._store.tasks(run)
        tasks = drawn if task is None else [task]
        return [await unbroken(self._decide(run, each, of_all=True)) for each in tasks]

    async def decisions_of(self, touched: Collection[tuple[str, str]]) -> list[TaskDecision]:
        """Return what is decided in those of these runs and tasks that have a drawing.

        This is asked after every append, so results behind a hole in the prefix may not all be counted as evaluated.
        """
        drawn = await self._drawn(touched)
        if len(self._undrawn) > _MOST_UNDRAWN:
            self._undrawn.clear()
        # For good: a task that has results gets no drawing any more.
        self._undrawn.update(set(touched).difference(drawn))
        return [await unbroken(self._decide(run, task)) for run, task in drawn]

    async def wrong_draws(self, results: Sequence[Result]) -> list[int]:
        """Return which of these results name a draw that is not their item's, in tasks that have a drawing."""
        by_task: dict[tuple[str, str], list[int]] = {}
        for number, result in enumerate(results):
            by_task.setdefault((result.run, result.key.task), []).append(number)
        wrong: list[int] = []
        for run, task in await self._drawn(by_task):
            claimed = [(number, results[number].key.item, results[number].draw_index) for number in by_task[run, task]]
            wrong += await unbroken(self._not_drawn(run, task, claimed))
        return sorted(wrong)

    async def _drawn(self, places: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return which of these runs and tasks have a drawing, in order."""
        found: list[tuple[str, str]] = []
        for run in sorted({run for run, _ in places}):
            tasks = sorted(task for each, task in places if each == run and (run, task) not in self._undrawn)
            if not all(self._is_drawn(run, task) for task in tasks):
                drawn = frozenset(await self._store.tasks(run))
                tasks = [task for task in tasks if task in drawn]
            found += [(run, task) for task in tasks]
        return found

    async def _not_drawn(self, run: str, task: str, claimed: Sequence[tuple[int, str, int]]) -> list[int]:
        place = self._places.get((run, task))
        if place is not None:
            async with place.lock:
                # Without asking the database, where all of them are among the draws that are known here.
                if place.work is not None and all(place.work.sequencer.is_draw(item, at) for _, item, at in claimed):
                    return []
        async with self._working(run, task) as work:
            return [number for number, item, at in claimed if not work.sequencer.is_draw(item, at)]

    async def _draw(self, run: str, task: str, first: int, count: int) -> DrawnItems:
        async with self._working(run, task) as work:
            if first > work.sequencer.drawn_count:
                raise DrawIndexError(run, task, first, work.sequencer.drawn_count)
            if first == work.sequencer.end and work.sequencer.can_draw:
                await self._draw_batch(work)
            before = work.sequencer.drawn_count
            drawn = await asyncio.to_thread(work.sequencer.draws, first, count)
            if work.sequencer.drawn_count > before:
                await self._store.hand_out(work.drawing, work.sequencer.drawn_count)
            return drawn

    async def _decide(self, run: str, task: str, *, of_all: bool = False) -> TaskDecision:
        async with self._working(run, task) as work:
            if of_all:
                await self._take_all(work.drawing, work.sequencer)
            return await asyncio.to_thread(work.sequencer.decision)

    async def _read_scores(self, run: str, task: str) -> DrawnScores:
        async with self._working(run, task) as work:
            return await asyncio.to_thread(work.sequencer.scores)

    async def _draw_batch(self, work: _Work) -> None:
        follows = work.sequencer.draws_digest
        batch = await asyncio.to_thread(work.sequencer.next_batch)
        if not await self._store.add_batch(work.drawing, batch, follows):
            # Another replica was first, and what was drawn here cannot be taken back.
            work.sequencer = await self._begun(work.drawing)

    @asynccontextmanager
    async def _working(self, run: str, task: str) -> AsyncIterator[_Work]:
        """Have a drawing, up to date, to oneself. After an error it is made anew from what is stored."""
        place = self._places.setdefault((run, task), _Place())
        self._places.move_to_end((run, task))
        async with place.lock:
            work, place.work = place.work, None
            if work is not None:
                try:
                    await self._catch_up(work)
                except LedgerReplacedError:
                    self._doubt()
                    work = None
            if work is None:
                work = await self._opened(run, task)
                place.is_drawn = True
            try:
                yield work
            except DrawIndexError:
                place.work = work
                raise
            place.work = work
        self._make_room()

    async def _opened(self, run: str, task: str) -> _Work:
        tasks = await self._store.tasks(run)
        drawing = await self._store.find(run, task)
        if drawing is None:
            self._places.pop((run, task), None)
            raise not_found("drawing", task, tasks)
        return _Work(drawing, await self._begun(drawing))

    async def _begun(self, drawing: Drawing) -> Sequencer:
        past = await self._store.history(drawing)
        sequencer = await asyncio.to_thread(Sequencer, drawing, past)
        await self._take_draws(drawing, sequencer)
        await self._take_all(drawing, sequencer)
        return sequencer

    async def _catch_up(self, work: _Work) -> None:
        """Take the draws and the results next in line that were added since, here or by other replicas."""
        drawing, sequencer = work.drawing, work.sequencer
        await self._take_draws(drawing, sequencer)
        while ahead := sequencer.missing_items(_LOOK_AHEAD):
            outcomes = await self._store.outcomes(drawing, ahead)
            await asyncio.to_thread(sequencer.take, outcomes)
            if sequencer.missing_items(1) == ahead[:1]:
                return

    async def _take_draws(self, drawing: Drawing, sequencer: Sequencer) -> None:
        progress = await self._store.progress(drawing, sequencer.batch_count)
        if progress.batches:
            await asyncio.to_thread(_replay, sequencer, progress.batches)
        sequencer.hand_out(progress.drawn_count)

    async def _take_all(self, drawing: Drawing, sequencer: Sequencer) -> None:
        """Take the results of every item that was handed out, those behind a hole too."""
        missing = sequencer.missing_items()
        if len(missing) <= _MOST_LOOKED_UP:
            if missing:
                outcomes = await self._store.outcomes(drawing, missing)
                await asyncio.to_thread(sequencer.take, outcomes)
            return
        wanted = frozenset(missing)
        async with aclosing(self._store.all_outcomes(drawing.spec.run, drawing.spec.task)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(sequencer.take, [each for each in piece if each.item in wanted])

    def _is_drawn(self, run: str, task: str) -> bool:
        """Whether it is known, without asking the database, that a task has a drawing."""
        place = self._places.get((run, task))
        return place is not None and place.is_drawn

    def _doubt(self) -> None:
        """Ask again which tasks have a drawing: what was found before may have been lost."""
        self._undrawn.clear()
        for place in self._places.values():
            place.is_drawn = False

    def _make_room(self) -> None:
        """Forget the least recently used drawings while too much is in memory."""
        kept = sum(len(each.work.drawing.item_ids) for each in self._places.values() if each.work)
        for key in list(self._places)[:-1]:
            if kept <= self._most_items:
                return
            place = self._places[key]
            if place.work is not None:
                kept -= len(place.work.drawing.item_ids)
                del self._places[key]


def _replay(sequencer: Sequencer, batches: Sequence[Batch]) -> None:
    for batch in batches:
        sequencer.replay(batch)


def _identity(spec: DrawingSpec) -> DrawingSpec:
    """A spec without the hints where to look for history."""
    return replace(spec, previous_run="", history_runs=())
