"""The shards of runs in the database, where all replicas find them."""

import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import (
    ColumnElement,
    FromClause,
    ScalarSelect,
    and_,
    delete,
    distinct,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.record import Run
from services.evaluation.runs.shards import Shard, ShardClaim
from services.evaluation.runs.statements import Statements, is_open
from services.evaluation.runs.store import NEXT_FENCE
from services.evaluation.runs.tables import RUN_COLUMNS, RUN_SHARDS, RUNS, run_from_row

_RENEWAL_SECONDS = 1.0

_S = RUN_SHARDS.c
_SHARD_COLUMNS = tuple(
    _S[name] for name in ("number", "task", "first_draw_index", "draw_count", "is_done", "scored_count", "failed_count")
)


class ShardStore(Statements):
    """The shards of all runs; see ``Statements``."""

    async def add(self, run_id: str, shards: Sequence[Shard]) -> None:
        """Store those shards of a run that are not there yet."""
        while new := await self._missing(run_id, shards):
            rows = [
                {
                    "run_id": run_id,
                    "number": each.number,
                    "task": each.task,
                    "first_draw_index": each.first_draw_index,
                    "draw_count": each.draw_count,
                    "is_done": each.is_done,
                    "scored_count": each.scored_count,
                    "failed_count": each.failed_count,
                    "lease_epoch": 0,
                }
                for each in new
            ]
            try:
                await self.write(insert(RUN_SHARDS), *rows)
            except IntegrityError:
                continue  # somebody who has lost the run meanwhile was faster
            return

    async def _missing(self, run_id: str, shards: Sequence[Shard]) -> Sequence[Shard]:
        known = {each.number for each in await self.all(run_id)}
        return [each for each in shards if each.number not in known]

    async def all(self, run_id: str) -> Sequence[Shard]:
        """The shards of a run."""
        query = select(*_SHARD_COLUMNS).where(_S.run_id == run_id).order_by(_S.number)

        async def read(connection: AsyncConnection) -> Sequence[Shard]:
            return [_from_row(row) for row in (await connection.execute(query)).mappings()]

        return await self.transact(read)

    async def claim(self, run_id: str, owner: str, *, lease_seconds: float) -> ShardClaim | None:
        """Take the first shard of a run that is not done and that nobody works on, or None."""
        now = self.now()
        statement = (
            update(RUN_SHARDS)
            .where(_S.run_id == run_id, _S.number == _first_free(run_id, now), _is_free(RUN_SHARDS, now))
            .values(lease_owner=owner, lease_end_time=now + lease_seconds, lease_epoch=_S.lease_epoch + 1)
            .returning(*_SHARD_COLUMNS, _S.lease_epoch, _worker_count(run_id, owner, now).label("others"))
        )

        async def take(connection: AsyncConnection) -> ShardClaim | None:
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else ShardClaim(_from_row(row), row["lease_epoch"], row["others"] + 1)

        return await self.transact(take)

    async def keep(self, run_id: str, owner: str, claim: ShardClaim, *, lease_seconds: float | None) -> None:
        """Prolong the lease of a shard and store its counts; None: it is done, and the lease ends.

        Raises:
            LeaseLostError: the run has ended, or another replica has the shard.
        """
        statement = (
            update(RUN_SHARDS)
            .where(
                _S.run_id == run_id,
                _S.number == claim.shard.number,
                _S.lease_owner == owner,
                _S.lease_epoch == claim.epoch,
                select(RUNS.c.run_id).where(RUNS.c.run_id == run_id, is_open(RUNS)).exists(),
            )
            .values(
                scored_count=claim.shard.scored_count,
                failed_count=claim.shard.failed_count,
                is_done=lease_seconds is None,
                lease_end_time=None if lease_seconds is None else self.now() + lease_seconds,
            )
        )
        if lease_seconds is not None:
            # A word that comes late does not undo that the shard is done.
            statement = statement.where(~_S.is_done)
        if (await self.write(statement)).rowcount == 0:
            raise LeaseLostError(
                f"runs/{run_id} has ended, or shard {claim.shard.number} is worked on by another replica",
                metadata={"run": f"runs/{run_id}", "shard": str(claim.shard.number), "epoch": str(claim.epoch)},
            )

    async def worker_count(self, run_id: str, owner: str) -> int:
        """How many replicas work on a run, ``owner`` included."""
        query = select(_worker_count(run_id, owner, self.now()))

        async def read(connection: AsyncConnection) -> int:
            return int((await connection.execute(query)).scalar() or 0) + 1

        return await self.transact(read)

    async def give_back(self, owner: str, run_id: str | None = None) -> None:
        """Let others take at once what ``owner`` has of a run, or of all."""
        statement = update(RUN_SHARDS).where(_S.lease_owner == owner, ~_S.is_done).values(lease_end_time=None)
        await self.write(statement if run_id is None else statement.where(_S.run_id == run_id))

    async def clear(self, run_id: str) -> None:
        """Forget the shards of a run that has ended."""
        await self.write(delete(RUN_SHARDS).where(_S.run_id == run_id))

    async def in_need(self, owner: str, *, without: Sequence[str] = ()) -> Run | None:
        """The run to help with: one that another replica owns and that has shards which nobody works on, or None."""
        now = self.now()
        shard = RUN_SHARDS.alias("shard")
        has_free = select(shard.c.run_id).where(shard.c.run_id == RUNS.c.run_id, _is_free(shard, now)).exists()
        query = (
            select(*RUN_COLUMNS)
            .where(is_open(RUNS), RUNS.c.lease_owner != owner, RUNS.c.lease_end_time >= now, has_free)
            .where(RUNS.c.run_id.not_in(without))
            .order_by(RUNS.c.priority.desc(), RUNS.c.create_time, RUNS.c.run_id)
            .limit(1)
        )

        async def read(connection: AsyncConnection) -> Run | None:
            row = (await connection.execute(query)).mappings().first()
            return None if row is None else run_from_row(row)

        return await self.transact(read)

    async def shut_out(self, run_id: str) -> int:
        """Move a run's fence on and return it; raises LeaseLostError if the run has ended."""
        statement = (
            update(RUNS).where(RUNS.c.run_id == run_id, is_open(RUNS)).values(fence=NEXT_FENCE).returning(RUNS.c.fence)
        )

        async def move(connection: AsyncConnection) -> int | None:
            fence: int | None = (await connection.execute(statement)).scalar()
            return fence

        fence = await self.transact(move)
        if fence is None:
            raise LeaseLostError(f"runs/{run_id} has ended")
        return fence


class StoredBoard:
    """The shards of one run in the database, as one replica sees them: a ``ShardBoard``.

    Args:
        store: of all shards.
        run_id: whose.
        owner: name of this replica.
        lease_seconds: after so long without a word from it a replica loses its shards.
        read_fence: returns the run's fence; raises LeaseLostError if the run is not to be worked on here any more.
    """

    def __init__(
        self,
        store: ShardStore,
        run_id: str,
        owner: str,
        *,
        lease_seconds: float,
        read_fence: Callable[[], Awaitable[int]],
    ) -> None:
        self.renewal_seconds = min(_RENEWAL_SECONDS, lease_seconds / 4)
        self.poll_seconds = self.renewal_seconds / 4
        self._read_fence = read_fence
        self._held: dict[int, ShardClaim] = {}
        self._store = store
        self._run_id = run_id
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._renew_time = time.monotonic()

    async def plan(self, shards: Sequence[Shard]) -> None:
        """Add those that are not there yet."""
        await self._store.add(self._run_id, shards)

    async def claim(self) -> ShardClaim | None:
        """Take the first that nobody works on, or None."""
        if self._held and time.monotonic() - self._renew_time > self._lease_seconds / 2:
            # The database was away: what is held here comes to be free for everybody, this replica included.
            await self.renew(list(self._held.values()))
        claim = await self._store.claim(self._run_id, self._owner, lease_seconds=self._lease_seconds)
        if claim is not None:
            self._held[claim.shard.number] = claim
        return claim

    async def renew(self, claims: Sequence[ShardClaim]) -> int:
        """Keep those that were taken."""
        began = time.monotonic()
        for claim in claims:
            if not self._holds(claim):
                continue
            try:
                await self._store.keep(self._run_id, self._owner, claim, lease_seconds=self._lease_seconds)
            except LeaseLostError:
                # It may have been settled, or taken anew, while the statement was on its way.
                if self._holds(claim):
                    raise
            if self._holds(claim):
                self._held[claim.shard.number] = claim
        self._renew_time = began
        return await self._store.worker_count(self._run_id, self._owner)

    def _holds(self, claim: ShardClaim) -> bool:
        held = self._held.get(claim.shard.number)
        return held is not None and held.epoch == claim.epoch

    async def settle(self, claim: ShardClaim) -> None:
        """Note that a shard is done."""
        # From here on nothing is written for it, so that nobody has to look whether it is still held.
        self._held.pop(claim.shard.number, None)
        await self._store.keep(self._run_id, self._owner, claim, lease_seconds=None)

    async def confirm(self) -> int:
        """Return the run's fence for who still has all that was taken here; raises LeaseLostError for who has not."""
        # Read first: a fence that is moved on after the look at the shards shuts this replica out.
        fence = await self._read_fence()
        await self.renew(list(self._held.values()))
        return fence

    async def give_back(self) -> None:
        """Let others take at once what this replica has."""
        await self._store.give_back(self._owner, self._run_id)

    async def standing(self) -> Sequence[Shard]:
        """All of the run's shards."""
        return await self._store.all(self._run_id)

    async def shut_out(self) -> int:
        """Move the run's fence on."""
        return await self._store.shut_out(self._run_id)


def _is_free(shards: FromClause, now: ColumnElement[float]) -> ColumnElement[bool]:
    ended = or_(shards.c.lease_end_time.is_(None), shards.c.lease_end_time < now)
    return and_(~shards.c.is_done, ended)


def _first_free(run_id: str, now: ColumnElement[float]) -> ScalarSelect[int]:
    """The number of the shard to take; one that another replica is taking at this moment is passed over."""
    shard = RUN_SHARDS.alias("shard")
    return (
        select(shard.c.number)
        .join(RUNS, RUNS.c.run_id == shard.c.run_id)
        .where(shard.c.run_id == run_id, _is_free(shard, now), is_open(RUNS))
        .order_by(shard.c.number)
        .limit(1)
        .with_for_update(of=shard, skip_locked=True)
        .scalar_subquery()
    )


def _worker_count(run_id: str, owner: str, now: ColumnElement[float]) -> ScalarSelect[int]:
    """How many others have shards of a run."""
    other = RUN_SHARDS.alias("other")
    return (
        select(func.count(distinct(other.c.lease_owner)))
        .where(other.c.run_id == run_id, ~other.c.is_done, other.c.lease_end_time >= now, other.c.lease_owner != owner)
        .scalar_subquery()
    )


def _from_row(row: RowMapping) -> Shard:
    return Shard(*(row[column.name] for column in _SHARD_COLUMNS))
