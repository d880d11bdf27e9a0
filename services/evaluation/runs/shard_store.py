"""The shards of runs in the database, where all replicas find them."""

from collections.abc import Sequence
from dataclasses import asdict, fields

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
    true,
    update,
)
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.record import Run
from services.evaluation.runs.shards import Shard, ShardClaim
from services.evaluation.runs.statements import Statements, is_open
from services.evaluation.runs.store import NEXT_FENCE
from services.evaluation.runs.tables import RUN_COLUMNS, RUN_SHARDS, RUNS, run_from_row

_S = RUN_SHARDS.c
SHARD_COLUMNS = tuple(_S[each.name] for each in fields(Shard))
"""The columns that say what a shard is; the others say who works on it."""


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
        query = select(*SHARD_COLUMNS).where(_S.run_id == run_id).order_by(_S.number)

        async def read(connection: AsyncConnection) -> Sequence[Shard]:
            return [shard_from_row(row) for row in (await connection.execute(query)).mappings()]

        return await self.transact(read)

    async def claim(
        self, run_id: str, owner: str, *, lease_seconds: float, takes_blocks: bool = True
    ) -> ShardClaim | None:
        """Take the first shard of a run that is not done and that nobody works on, or None.

        Args:
            run_id: whose shard.
            owner: who takes it.
            lease_seconds: after so long without a word it is free again.
            takes_blocks: whether shards of drawn items are taken too.
        """
        now = self.now()
        statement = (
            update(RUN_SHARDS)
            .where(
                _S.run_id == run_id,
                _S.number == _first_free(run_id, now, takes_blocks=takes_blocks),
                is_free(RUN_SHARDS, now),
            )
            .values(lease_owner=owner, lease_end_time=now + lease_seconds, lease_epoch=_S.lease_epoch + 1)
            .returning(*SHARD_COLUMNS, _S.lease_epoch, _worker_count(run_id, owner, now).label("others"))
        )

        async def take(connection: AsyncConnection) -> ShardClaim | None:
            row = (await connection.execute(statement)).mappings().first()
            return None if row is None else ShardClaim(shard_from_row(row), row["lease_epoch"], row["others"] + 1)

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
                spent=asdict(claim.shard.spent),
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

    async def is_withdrawn(self, run_id: str, number: int) -> bool:
        """Whether a shard is gone although its run goes on."""
        shard = select(_S.number).where(_S.run_id == run_id, _S.number == number)
        query = select(RUNS.c.run_id).where(RUNS.c.run_id == run_id, is_open(RUNS), ~shard.exists())

        async def read(connection: AsyncConnection) -> bool:
            return (await connection.execute(query)).first() is not None

        return await self.transact(read)

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
        """The run to help with: one that another replica owns and that has shards which nobody works on, or None.

        Blocks of drawn items are not among them: they are made for helpers that wait for them already.
        """
        now = self.now()
        shard = RUN_SHARDS.alias("shard")
        is_its = and_(shard.c.run_id == RUNS.c.run_id, shard.c.positions.is_(None))
        has_free = select(shard.c.run_id).where(is_its, is_free(shard, now)).exists()
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

    async def shut_out(self, run_id: str, epoch: int | None = None) -> int:
        """Move a run's fence on and return it.

        Raises:
            LeaseLostError: the run has ended, or its lease is not the one of this epoch, if one is given.
        """
        statement = update(RUNS).where(RUNS.c.run_id == run_id, is_open(RUNS)).values(fence=NEXT_FENCE)
        if epoch is not None:
            statement = statement.where(RUNS.c.lease_epoch == epoch)

        async def move(connection: AsyncConnection) -> int | None:
            fence: int | None = (await connection.execute(statement.returning(RUNS.c.fence))).scalar()
            return fence

        fence = await self.transact(move)
        if fence is None:
            raise LeaseLostError(f"runs/{run_id} has ended or is worked on by another replica")
        return fence


def is_free(shards: FromClause, now: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a shard is not done and nobody works on it."""
    ended = or_(shards.c.lease_end_time.is_(None), shards.c.lease_end_time < now)
    return and_(~shards.c.is_done, ended)


def _first_free(run_id: str, now: ColumnElement[float], *, takes_blocks: bool) -> ScalarSelect[int]:
    """The number of the shard to take; one that another replica is taking at this moment is passed over."""
    shard = RUN_SHARDS.alias("shard")
    return (
        select(shard.c.number)
        .join(RUNS, RUNS.c.run_id == shard.c.run_id)
        .where(shard.c.run_id == run_id, is_free(shard, now), is_open(RUNS))
        .where(true() if takes_blocks else shard.c.positions.is_(None))
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


def shard_from_row(row: RowMapping) -> Shard:
    """The shard in a row that has at least ``SHARD_COLUMNS``."""
    values = {column.name: row[column] for column in SHARD_COLUMNS}
    # Shards of the run's own order have neither.
    values["positions"] = tuple(values["positions"] or ())
    values["spent"] = Spend(**(values["spent"] or {}))
    return Shard(**values)
