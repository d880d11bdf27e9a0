"""Works on the shards of a run at one replica: its owner's, or one that helps."""

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from services.evaluation.runs.budget import Spend
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.open_shards import OpenShard, ShardTask
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import Ledger
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.shards import Shard, ShardBoard, ShardClaim


class ShardCrew:
    """Takes shards of a run, lowest first, asks their items, and tells the board.

    Args:
        run: its resource name.
        tasks: by name.
        board: of the run's shards.
        ledger: where outcomes go.
        known: outcomes that need not be asked for; grows.
        concurrency: items of the run in flight at once, at all replicas together; each takes its share.
        is_owner: whether to stay until every shard is done, whoever does it; else only as long as there is one to take.
        patience_seconds: how long to wait for the board or the ledger.
        linger_seconds: how long a helper waits for a further shard.
    """

    def __init__(
        self,
        run: str,
        tasks: Mapping[str, ShardTask],
        board: ShardBoard,
        ledger: Ledger,
        known: KnownOutcomes,
        *,
        concurrency: int,
        is_owner: bool,
        patience_seconds: float,
        linger_seconds: float = 0.0,
    ) -> None:
        self._run = run
        self._tasks = tasks
        self._board = board
        self._ledger = ledger
        self._known = known
        self._concurrency = concurrency
        self._is_owner = is_owner
        self._patience_seconds = patience_seconds
        self._linger_seconds = linger_seconds
        self._share = concurrency
        self._in_flight = 0
        self._place_free = asyncio.Event()
        self._open: dict[int, OpenShard] = {}
        self._own: set[int] = set()
        self._current: OpenShard | None = None
        self._full: asyncio.Queue[OpenShard | None] = asyncio.Queue()
        self._has_asked_all = False
        self._scored: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._others: Mapping[str, tuple[int, int]] = {}
        self._on_counts: Callable[[], None] = lambda: None

    def counts(self, task: str) -> tuple[int, int]:
        """Outcomes of a task, scored and failed, here and elsewhere."""
        scored, failed = self._others.get(task, (0, 0))
        return self._scored[task] + scored, self._failed[task] + failed

    async def work(
        self, write: Callable[[ItemOutcome], Awaitable[None]], on_counts: Callable[[], None] = lambda: None
    ) -> None:
        """Work until there is nothing left to do here.

        Args:
            write: hands an outcome to the ledger's writer, which tells ``note`` once it is stored.
            on_counts: is told when ``counts`` have changed because of others.

        Raises:
            LeaseLostError: the run has ended, or another replica has taken a shard.
            RunCannotGoOnError, FleetError: as an item, the board or the ledger does.
        """
        self._on_counts = on_counts
        if self._is_owner:
            await self._look_at_others()
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._look())
            settling = group.create_task(self._settle())
            await self._ask_all(write)
            self._has_asked_all = True
            self._stop_settling_if_done()
            await settling
            looking.cancel()

    def note(self, outcomes: Sequence[ItemOutcome]) -> None:
        """Take in what the ledger has stored."""
        for each in outcomes:
            shard = self._shard_of(each.task, each.draw_index)
            if shard is None or not self._known.add(each.task, each.draw_index, each.sample):
                continue
            self._count(shard, each.task, failed=each.failure is not None)
            if shard.claim.shard.positions:
                # Whoever handed it out keeps an account. An item is counted with the first of its samples.
                shard.spent += dataclasses.replace(Spend.of_item(each.usage), items=int(each.sample == 0))
            shard.missing_count -= 1
            if not shard.missing_count:
                self._full.put_nowait(shard)

    def _shard_of(self, task: str, draw_index: int) -> OpenShard | None:
        for shard in self._open.values():
            if shard.claim.shard.task == task and draw_index in shard.claim.shard.draw_indices:
                return shard
        return None

    def _count(self, shard: OpenShard, task: str, *, failed: bool) -> None:
        if failed:
            shard.failed_count += 1
            self._failed[task] += 1
        else:
            shard.scored_count += 1
            self._scored[task] += 1

    async def _ask_all(self, write: Callable[[ItemOutcome], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as group:
            while (found := await self._next()) is not None:
                while self._in_flight >= self._share:
                    self._place_free.clear()
                    await self._place_free.wait()
                opened, draw_index = found
                if self._open.get(opened.claim.shard.number) is not opened:
                    continue  # it was withdrawn meanwhile
                self._in_flight += 1
                job = group.create_task(self._ask(opened.claim.shard, draw_index, write))
                opened.jobs.add(job)
                job.add_done_callback(partial(self._end, opened))

    def _end(self, opened: OpenShard, job: asyncio.Task[None]) -> None:
        # Not in the job itself, which does not run at all if it is cancelled at once.
        opened.jobs.discard(job)
        self._in_flight -= 1
        self._place_free.set()

    async def _ask(self, shard: Shard, draw_index: int, write: Callable[[ItemOutcome], Awaitable[None]]) -> None:
        its, task = self._tasks[shard.task], shard.task
        for outcome in await its.pipeline.outcomes(its.item(shard, draw_index), draw_index):
            if not self._known.has(task, draw_index, outcome.sample):
                await write(outcome)

    async def _next(self) -> tuple[OpenShard, int] | None:
        """The next item that has an outcome missing, as shard and place in the order; None: nothing is left to do."""
        while True:
            if (current := self._current) is not None:
                shard = current.claim.shard
                while current.next_index < shard.draw_indices.stop:
                    current.next_index += 1
                    if not self._known.has_all(shard.task, current.next_index - 1):
                        return current, current.next_index - 1
                self._current = None
            claim = await self._claim()
            if claim is None:
                return None
            await self._begin(claim)

    async def _claim(self) -> ShardClaim | None:
        began = time.monotonic()
        while True:
            claim = await wait_out(self._board.claim, patience_seconds=self._patience_seconds)
            if claim is not None:
                return claim
            if self._is_owner:
                if await self._others_are_done():
                    return None
            elif time.monotonic() - began >= self._linger_seconds:
                return None
            await asyncio.sleep(self._board.poll_seconds)

    async def _others_are_done(self) -> bool:
        shards = await self._look_at_others()
        return all(each.is_done or each.number in self._open for each in shards)

    async def _begin(self, claim: ShardClaim) -> None:
        """Begin to work on a shard that was taken, with what is known of it."""
        # A ledger that has lost something makes that void, and its run's owner plans anew.
        await wait_out(self._confirm_ledger, patience_seconds=self._patience_seconds)
        shard = claim.shard
        if (held := self._open.get(shard.number)) is not None:
            await self._go_on(held, claim)
            return
        opened = OpenShard(claim, shard.first_draw_index, 0, shard.scored_count, shard.failed_count, shard.spent)
        self._own.add(shard.number)
        self._open[shard.number] = opened
        if claim.epoch > 1:
            await wait_out(self._shut_out, patience_seconds=self._patience_seconds)
        has_some = shard.scored_count + shard.failed_count > 0
        if claim.epoch > 1 or (has_some and not self._is_owner):
            await wait_out(partial(self._read, opened), patience_seconds=self._patience_seconds)
        self._scored[shard.task] += opened.scored_count
        self._failed[shard.task] += opened.failed_count
        sample_count = self._tasks[shard.task].pipeline.sample_count
        known = opened.scored_count + opened.failed_count
        opened.missing_count = shard.draw_count * sample_count - known
        if not opened.missing_count:
            self._full.put_nowait(opened)
        self._set_share(claim.worker_count)
        self._current = opened

    async def _go_on(self, held: OpenShard, claim: ShardClaim) -> None:
        """Go on under a new lease with a shard whose lease has ended while the board was away; all of it is asked."""
        was_taken = claim.epoch > held.claim.epoch + 1
        held.claim = claim
        self._set_share(claim.worker_count)
        if was_taken:
            await wait_out(self._shut_out, patience_seconds=self._patience_seconds)

    async def _shut_out(self) -> None:
        """Let the ledger refuse what whoever had the shard before may still send."""
        fence = await self._board.shut_out()
        await self._ledger.fenced(fence).append(self._run, ())

    async def _confirm_ledger(self) -> None:
        """Find out whether the ledger has what it acknowledged; see ``WatchedLedger``."""
        await self._ledger.append(self._run, ())

    async def _read(self, opened: OpenShard) -> None:
        """Learn which outcomes of a shard the ledger has."""
        shard = opened.claim.shard
        scored = failed = 0
        async for key in self._ledger.keys(self._run):
            # Of other shards' nothing: what is on its way to the ledger from here has to be counted once, by ``note``.
            if key.task == shard.task and key.draw_index in shard.draw_indices:
                self._known.add(key.task, key.draw_index, key.sample)
                failed += key.failed
                scored += not key.failed
        opened.scored_count, opened.failed_count = scored, failed

    def _set_share(self, worker_count: int) -> None:
        self._share = max(1, -(-self._concurrency // worker_count))
        self._place_free.set()

    async def _settle(self) -> None:
        """Tell the board which shards are done, until all are and no further one comes."""
        while (shard := await self._full.get()) is not None:
            await wait_out(partial(self._settle_one, shard), patience_seconds=self._patience_seconds)
            self._open.pop(shard.claim.shard.number, None)
            self._stop_settling_if_done()

    async def _settle_one(self, shard: OpenShard) -> None:
        await self._confirm_ledger()
        # Each attempt under the claim as it is then.
        await self._board.settle(shard.told)

    def _stop_settling_if_done(self) -> None:
        if self._has_asked_all and not self._open:
            self._full.put_nowait(None)

    async def _look(self) -> None:
        """Keep what is held and learn what others do."""
        while True:
            await asyncio.sleep(self._board.renewal_seconds)
            claims = [each.told for each in self._open.values()]
            renewal = await wait_out(partial(self._board.renew, claims), patience_seconds=self._patience_seconds)
            for number in renewal.withdrawn:
                self._drop(number)
            self._set_share(renewal.worker_count)
            if self._is_owner:
                await self._look_at_others()

    def _drop(self, number: int) -> None:
        """Ask nothing more of a shard that nobody needs any more."""
        if (opened := self._open.pop(number, None)) is None:
            return
        if self._current is opened:
            self._current = None
        for job in opened.jobs:
            job.cancel()
        self._stop_settling_if_done()

    async def _look_at_others(self) -> Sequence[Shard]:
        """All shards as they stand; counts those of others."""
        shards = await wait_out(self._board.standing, patience_seconds=self._patience_seconds)
        counts: dict[str, tuple[int, int]] = {}
        for each in shards:
            if each.number not in self._own:
                scored, failed = counts.get(each.task, (0, 0))
                counts[each.task] = scored + each.scored_count, failed + each.failed_count
        if counts != self._others:
            self._others = counts
            self._on_counts()
        return shards
