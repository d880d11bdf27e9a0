"""Blocks of drawn items in the database, and the helpers that wait for them."""

import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import asdict
from typing import Final

from sqlalchemy import Exists, delete, func, insert, literal, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.blocks import LEAST_PLACES, BlocksLook, PublishedBlock, most_helpers, wants_helpers
from services.evaluation.runs.record import Run
from services.evaluation.runs.shard_store import SHARD_COLUMNS, ShardStore, is_free, shard_from_row
from services.evaluation.runs.shards import Renewal, Shard, ShardClaim
from services.evaluation.runs.statements import Statements, is_open
from services.evaluation.runs.stored_board import StoredBoard
from services.evaluation.runs.tables import RUN_COLUMNS, RUN_HELPERS, RUN_SHARDS, RUNS, run_from_row

_NUMBERS_AN_EPOCH: Final = 1 << 20
_EPOCHS: Final = 1 << 10
"""After so many owners numbers come again, whose first holders are long gone."""
_POLL_SECONDS: Final = 0.2
_RENEWAL_SECONDS: Final = 1.0
_WAITING_RENEWALS: Final = 3
"""A helper that said nothing for so many renewals is not reckoned with."""

_S, _H = RUN_SHARDS.c, RUN_HELPERS.c
_IS_BLOCK = _S.positions.is_not(None)


class BlockStore(Statements):
    """The blocks and the helpers of all runs; see ``Statements``."""

    async def publish(self, run_id: str, epoch: int, block: Shard) -> None:
        """Store a block of a run that is worked on under a lease of this epoch; one that is there stays.

        Raises:
            LeaseLostError: the run is worked on under another one, or has ended.
        """
        values = {**asdict(block), "run_id": run_id, "lease_epoch": 0}
        new = select(*(literal(value, _S[name].type) for name, value in values.items()))
        statement = insert(RUN_SHARDS).from_select(list(values), new.where(_is_owned(run_id, epoch)))
        try:
            stored = (await self.write(statement)).rowcount
        except IntegrityError:
            return  # the attempt before this one has come through, but not the word of it
        if stored == 0:
            raise LeaseLostError(f"runs/{run_id} has ended or is worked on by another replica")

    async def withdraw(self, run_id: str, epoch: int, number: int, *, if_free: bool) -> PublishedBlock | None:
        """Remove a block and return it as it stood; None: there is none, or it is not to be had so."""
        free = is_free(RUN_SHARDS, self.now())
        statement = delete(RUN_SHARDS).where(_S.run_id == run_id, _S.number == number, _is_owned(run_id, epoch))
        if if_free:
            statement = statement.where(free)
        returning = statement.returning(*SHARD_COLUMNS, _S.lease_epoch, free.label("free"))

        async def remove(connection: AsyncConnection) -> PublishedBlock | None:
            row = (await connection.execute(returning)).mappings().first()
            return None if row is None else _from_row(row)

        return await self.transact(remove)

    async def withdraw_all(self, run_id: str, epoch: int) -> None:
        """Remove all blocks of a run."""
        await self.write(delete(RUN_SHARDS).where(_S.run_id == run_id, _IS_BLOCK, _is_owned(run_id, epoch)))

    async def look(self, run_id: str) -> BlocksLook:
        """The blocks of a run, and its helpers."""
        free = is_free(RUN_SHARDS, self.now()).label("free")
        blocks = select(*SHARD_COLUMNS, _S.lease_epoch, free).where(_S.run_id == run_id, _IS_BLOCK).order_by(_S.number)
        count = select(func.count()).where(_H.run_id == run_id, _H.end_time >= self.now())

        async def read(connection: AsyncConnection) -> BlocksLook:
            found = [_from_row(row) for row in (await connection.execute(blocks)).mappings()]
            helper_count = int((await connection.execute(count)).scalar() or 0)
            return BlocksLook({each.shard.number: each for each in found}, helper_count)

        return await self.transact(read)

    async def attend(self, run_id: str, helper: str, *, seconds: float) -> None:
        """Let the owner of a run know, for so long, that a helper waits for blocks.

        Raises:
            LeaseLostError: the run has ended, or the helper itself owns it by now.
        """
        others = select(RUNS.c.run_id).where(RUNS.c.run_id == run_id, is_open(RUNS), RUNS.c.lease_owner != helper)
        end = self.now() + seconds
        renewed = update(RUN_HELPERS).where(_H.run_id == run_id, _H.helper == helper, others.exists())
        if (await self.write(renewed.values(end_time=end))).rowcount:
            return
        new = select(literal(run_id), literal(helper), end).where(others.exists())
        try:
            added = await self.write(insert(RUN_HELPERS).from_select(["run_id", "helper", "end_time"], new))
        except IntegrityError:
            return  # it has just said so, for as long
        if not added.rowcount:
            raise LeaseLostError(f"runs/{run_id} has ended or needs no help of its owner")

    async def leave(self, helper: str, run_id: str | None = None) -> None:
        """Say that a helper waits no more for blocks of a run, or of any."""
        statement = delete(RUN_HELPERS).where(_H.helper == helper)
        await self.write(statement if run_id is None else statement.where(_H.run_id == run_id))

    async def clear(self, run_id: str) -> None:
        """Forget the helpers of a run that has ended."""
        await self.write(delete(RUN_HELPERS).where(_H.run_id == run_id))

    async def in_want(self, owner: str, *, without: Collection[str] = ()) -> Run | None:
        """The run to wait at for blocks: one that another replica owns and that will have some, or None."""
        now = self.now()
        helpers = (
            select(func.count())
            .where(_H.run_id == RUNS.c.run_id, _H.end_time >= now, _H.helper != owner)
            .correlate(RUNS)
            .scalar_subquery()
        )
        query = (
            select(*RUN_COLUMNS, helpers.label("helpers"))
            .where(is_open(RUNS), RUNS.c.lease_owner != owner, RUNS.c.lease_end_time >= now)
            .where(RUNS.c.concurrency >= LEAST_PLACES, RUNS.c.run_id.not_in(without))
            .order_by(RUNS.c.priority.desc(), RUNS.c.create_time, RUNS.c.run_id)
        )

        async def read(connection: AsyncConnection) -> Run | None:
            for row in (await connection.execute(query)).mappings():
                run = run_from_row(row)
                if wants_helpers(run) and row["helpers"] < most_helpers(run):
                    return run
            return None

        return await self.transact(read)


class StoredBlocks:
    """The blocks of one run in the database, as its owner sees them: a ``BlockBoard``.

    Args:
        store: of all blocks.
        shards: of all runs.
        run_id: whose.
        epoch: of the lease under which the run is worked on.
    """

    poll_seconds = _POLL_SECONDS
    renewal_seconds = _RENEWAL_SECONDS

    def __init__(self, store: BlockStore, shards: ShardStore, run_id: str, epoch: int) -> None:
        self._store = store
        self._shards = shards
        self._run_id = run_id
        self._epoch = epoch
        # Behind those of shards, and apart from those of earlier owners, whose holders may still speak of them.
        self._numbers = itertools.count((epoch % _EPOCHS + 1) * _NUMBERS_AN_EPOCH)

    def new_number(self) -> int:
        """Return a number that no shard of the run has had."""
        return next(self._numbers)

    async def publish(self, block: Shard) -> None:
        """Let helpers take a block."""
        await self._store.publish(self._run_id, self._epoch, block)

    async def look(self) -> BlocksLook:
        """All blocks as they stand."""
        return await self._store.look(self._run_id)

    async def withdraw(self, number: int, *, if_free: bool = False) -> PublishedBlock | None:
        """Remove a block, and return it as it stood."""
        return await self._store.withdraw(self._run_id, self._epoch, number, if_free=if_free)

    async def withdraw_all(self) -> None:
        """Remove all blocks of the run, whoever has published them."""
        await self._store.withdraw_all(self._run_id, self._epoch)

    async def shut_out(self) -> int:
        """Move the run's fence on."""
        return await self._shards.shut_out(self._run_id, self._epoch)


class HelperBoard(StoredBoard):
    """The shards of a run whose owner hands out blocks, as a helper sees them that waits for some."""

    _takes_blocks = True

    def __init__(
        self,
        blocks: BlockStore,
        shards: ShardStore,
        run_id: str,
        helper: str,
        *,
        lease_seconds: float,
        read_fence: Callable[[], Awaitable[int]],
    ) -> None:
        super().__init__(shards, run_id, helper, lease_seconds=lease_seconds, read_fence=read_fence)
        self._blocks = blocks
        self._attend_time = float("-inf")

    async def claim(self) -> ShardClaim | None:
        """Take the first that nobody works on, or None."""
        await self._attend()
        return await super().claim()

    async def renew(self, claims: Sequence[ShardClaim]) -> Renewal:
        """Keep those that were taken."""
        await self._attend()
        return await super().renew(claims)

    async def _attend(self) -> None:
        now = time.monotonic()
        if now - self._attend_time < self.renewal_seconds / 2:
            return
        await self._blocks.attend(self._run_id, self._owner, seconds=_WAITING_RENEWALS * self.renewal_seconds)
        self._attend_time = now


def _is_owned(run_id: str, epoch: int) -> Exists:
    """Whether a run is worked on under a lease of this epoch."""
    return select(RUNS.c.run_id).where(RUNS.c.run_id == run_id, RUNS.c.lease_epoch == epoch, is_open(RUNS)).exists()


def _from_row(row: RowMapping) -> PublishedBlock:
    return PublishedBlock(shard_from_row(row), row["lease_epoch"], bool(row["free"]))
