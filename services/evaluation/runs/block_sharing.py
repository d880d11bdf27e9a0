"""Hands blocks of drawn items to helpers, at the owner of a run, and learns what becomes of them."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.blocks import BlockBoard, PublishedBlock, block_of
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw, Drawings
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.peers import Ledger
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.shards import Shard
from services.runtime.errors import FleetError

_LOG = structlog.stdlib.get_logger(__name__)

_UNCLAIMED_SECONDS: Final = 2.0
"""A block that nobody takes for so long goes back: a helper that is there looks four times a second."""
_PAUSE_SECONDS: Final = 5.0
_LONGEST_WITHDRAWAL_SECONDS: Final = 2.0

OnDone = Callable[[int, Spend | None], None]
"""Is told how many further items of a block are done, and what they cost; None: nobody knows. The number is negative
where an earlier one was too large."""


@dataclass(slots=True)
class _Handed:
    """A block that was published, as it was seen last."""

    shard: Shard
    draws: Sequence[Draw]
    sample_count: int
    publish_time: float
    on_done: OnDone
    on_taken: Callable[[], None]
    left: "asyncio.Future[Sequence[Draw]]"
    done_count: int = 0
    was_taken: bool = False

    @property
    def is_overdue(self) -> bool:
        """Whether those who wait for blocks have let it lie for too long."""
        return time.monotonic() - self.publish_time > _UNCLAIMED_SECONDS


class BlockSharing:
    """The blocks of one run.

    Args:
        run: its resource name.
        board: of its blocks.
        ledger: where outcomes go; shuts out whom a block was taken from.
        drawings: tell what is decided by outcomes that helpers bring.
        known: outcomes that need not be asked for; grows.
        on_counts: is told of further outcomes of a task, scored and failed.
        on_decision: is told what is decided.
        patience_seconds: how long to wait for a service that is away.
    """

    def __init__(
        self,
        run: str,
        board: BlockBoard,
        ledger: Ledger,
        drawings: Drawings,
        known: KnownOutcomes,
        *,
        on_counts: Callable[[str, int, int], None],
        on_decision: Callable[[TaskDecision], None],
        patience_seconds: float,
    ) -> None:
        self._run = run
        self._board = board
        self._ledger = ledger
        self._drawings = drawings
        self._known = known
        self._on_counts = on_counts
        self._on_decision = on_decision
        self._patience_seconds = patience_seconds
        self._handed: dict[int, _Handed] = {}
        self._withdrawn: list[_Handed] = []
        self._has_left_some = False
        self._moved: set[str] = set()
        self._shared_count = 0
        self._helper_count = 0
        self._pause_end = float("-inf")

    @property
    def helper_count(self) -> int:
        """How many helpers blocks may be made for now."""
        return 0 if time.monotonic() < self._pause_end else self._helper_count

    def pause(self) -> None:
        """Make no blocks for a while."""
        self._pause_end = time.monotonic() + _PAUSE_SECONDS

    async def watch(self) -> None:
        """Look after the blocks until cancelled.

        Raises:
            LeaseLostError: the run is somebody else's now.
        """
        while True:
            await asyncio.sleep(self._board.poll_seconds if self._handed else self._board.renewal_seconds)
            await wait_out(self._look, patience_seconds=self._patience_seconds)

    async def share(
        self, task: str, draws: Sequence[Draw], sample_count: int, on_done: OnDone, on_taken: Callable[[], None]
    ) -> Sequence[Draw]:
        """Let a helper ask some drawn items; return those that are still to be asked once nobody works on them.

        Cancelling this withdraws what is not done; ``finish`` then finds out what was.

        Args:
            task: whose items.
            draws: that follow each other.
            sample_count: outcomes that an item has.
            on_done: is told how far a helper has come.
            on_taken: is told, perhaps several times, that somebody has or may have taken the block.
        """
        shard = block_of(self._board.new_number(), task, [(each.draw_index, each.position) for each in draws])
        left: asyncio.Future[Sequence[Draw]] = asyncio.get_running_loop().create_future()
        handed = _Handed(shard, draws, sample_count, time.monotonic(), on_done, on_taken, left)
        self._handed[shard.number] = handed
        try:
            publish = partial(self._board.publish, shard)
            await wait_out(publish, patience_seconds=self._patience_seconds)
            handed.publish_time = time.monotonic()
            return await left
        except asyncio.CancelledError:
            await self._withdraw(handed)
            raise
        finally:
            del self._handed[shard.number]

    async def finish(self) -> None:
        """Count what helpers have brought of blocks that were withdrawn; nothing more comes afterwards."""
        if self._has_left_some:
            # Before anything else of the run begins: nobody keeps an account of them any more.
            await wait_out(self._board.withdraw_all, patience_seconds=self._patience_seconds)
            self._has_left_some = False
        if self._withdrawn:
            taken = [each for each in self._withdrawn if each.was_taken]
            self._withdrawn.clear()
            if taken:
                await wait_out(partial(self._read, taken), patience_seconds=self._patience_seconds)
        if self._shared_count:
            _LOG.info("run_shared", run=self._run, items=self._shared_count)

    async def _withdraw(self, handed: _Handed) -> None:
        self._withdrawn.append(handed)
        try:
            async with asyncio.timeout(_LONGEST_WITHDRAWAL_SECONDS):
                found = await self._board.withdraw(handed.shard.number)
        except (TimeoutError, LeaseLostError, RunsUnavailableError) as error:
            # Its outcomes are those of its draws, whoever brings them, until ``finish`` withdraws it.
            _LOG.warning("block_not_withdrawn", run=self._run, message=str(error))
            self._has_left_some = True
            self._note_taken(handed)
            return
        if found is not None:
            self._take_in(handed, found)

    async def _look(self) -> None:
        look = await self._board.look()
        self._helper_count = look.helper_count
        for number, handed in list(self._handed.items()):
            found = look.blocks.get(number)
            if found is None:
                continue  # it is about to be published, or gone by now
            if self._take_in(handed, found):
                self._moved.add(handed.shard.task)
            if found.shard.is_done:
                await self._end(handed)
            elif found.is_free and (found.epoch or not look.helper_count or handed.is_overdue):
                await self._take_back(handed)
        for number in look.blocks.keys() - self._handed.keys():
            # An owner before this one has published it at the last moment, or it was not withdrawn when it was to be.
            await self._board.withdraw(number)
        while self._moved:
            # Whoever asks for what is drawn already is told what is decided.
            told = await self._drawings.draw(self._run, next(iter(self._moved)), 0, 1)
            self._moved.discard(told.decision.task)
            self._on_decision(told.decision)

    def _take_in(self, handed: _Handed, found: PublishedBlock) -> bool:
        """Take in what was told of a block, and return whether anything was new."""
        before, now = handed.shard, found.shard
        if found.epoch > 0:
            self._note_taken(handed)
        handed.shard = now
        scored, failed = now.scored_count - before.scored_count, now.failed_count - before.failed_count
        if not scored and not failed:
            return False
        self._on_counts(now.task, scored, failed)
        done_count = (now.scored_count + now.failed_count) // handed.sample_count
        self._advance(handed, done_count, now.spent - before.spent)
        return True

    def _note_taken(self, handed: _Handed) -> None:
        handed.was_taken = True
        handed.on_taken()

    def _advance(self, handed: _Handed, done_count: int, spent: Spend) -> None:
        further, handed.done_count = done_count - handed.done_count, done_count
        self._shared_count += further
        handed.on_done(further, spent)

    def _close(self, handed: _Handed, done_count: int) -> None:
        """Settle a block of which nothing more is told.

        What a helper has brought that died before it told of the cost counts as what was reserved.
        """
        unpriced = max(0, done_count - round(handed.shard.spent.items))
        self._advance(handed, done_count - unpriced, Spend())
        handed.done_count += unpriced
        self._shared_count += unpriced
        handed.on_done(unpriced, None)

    async def _end(self, handed: _Handed) -> None:
        """Have done with a block all of whose outcomes the ledger has."""
        for draw in handed.draws:
            for sample in range(handed.sample_count):
                self._known.add(handed.shard.task, draw.draw_index, sample)
        self._close(handed, len(handed.draws))
        self._return(handed, ())
        await self._board.withdraw(handed.shard.number)

    async def _take_back(self, handed: _Handed) -> None:
        """Take a block back that nobody works on, or not any more."""
        found = await self._board.withdraw(handed.shard.number, if_free=True)
        if found is None:
            return  # somebody has just taken it
        self._take_in(handed, found)
        if handed.was_taken:
            # It is not among the blocks any more: what cannot be read now nobody looks for again.
            try:
                await wait_out(partial(self._read, [handed]), patience_seconds=self._patience_seconds)
            except FleetError as error:
                if not handed.left.done():
                    handed.left.set_exception(error)
                raise
        else:
            self.pause()
        _LOG.info("block_taken_back", run=self._run, block=handed.shard.number, had_holder=handed.was_taken)
        is_known = partial(self._known.has_all, handed.shard.task)
        self._return(handed, [draw for draw in handed.draws if not is_known(draw.draw_index)])

    def _return(self, handed: _Handed, left: Sequence[Draw]) -> None:
        if not handed.left.done():
            handed.left.set_result(left)

    async def _read(self, blocks: Sequence[_Handed]) -> None:
        """Shut out whoever had some blocks, and learn what the ledger has of them."""
        fence = await self._board.shut_out()
        await self._ledger.fenced(fence).append(self._run, ())
        found = {each.shard.number: [0, 0] for each in blocks}
        async for key in self._ledger.keys(self._run):
            for each in blocks:
                if each.shard.task == key.task and key.draw_index in each.shard.draw_indices:
                    self._known.add(key.task, key.draw_index, key.sample)
                    found[each.shard.number][key.failed] += 1
        for each in blocks:
            scored, failed = found[each.shard.number]
            shard = each.shard
            self._on_counts(shard.task, scored - shard.scored_count, failed - shard.failed_count)
            each.shard = dataclasses.replace(shard, scored_count=scored, failed_count=failed)
            self._close(each, sum(self._known.has_all(shard.task, draw.draw_index) for draw in each.draws))
