"""Shards in a file and in a real PostgreSQL: who may take which, and what a lost lease may write."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.record import Run, TaskProgress
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import ShardClaim, ShardPlan
from services.evaluation.runs.store import Claim, RunStore
from services.evaluation.runs.stored_board import StoredBoard
from services.runtime.database import database_url, open_database, sqlite_url
from services.standalone.postgres_server import PostgresServer

pytestmark = pytest.mark.integration

MIGRATIONS = Path(__file__).parents[2] / "services" / "evaluation" / "migrations"
LONG = 60.0
"""A lease that does not end within a test."""
OVER = -1.0
"""A lease that has ended already."""
PLANNED = ShardPlan([("t", 100, 1), ("u", 20, 1)]).shards()


@dataclasses.dataclass
class Stores:
    runs: RunStore
    shards: ShardStore

    async def begun(self, run_id: str = "r", priority: int = 0) -> Claim:
        """A run that ``owner`` works on, and its shards."""
        run = Run(
            run_id, "demo", "s", "models/tiny", "m", seed=1, concurrency=4, create_time=1.0, caller="a",
            priority=priority, tasks=("t", "u"), progress=(TaskProgress("t"), TaskProgress("u")),
        )  # fmt: skip
        await self.runs.add(run)
        claim = await self.runs.claim("owner", lease_seconds=LONG)
        assert claim is not None
        await self.shards.add(run_id, PLANNED)
        return claim

    async def taken(self, owner: str, *, lease_seconds: float = LONG) -> ShardClaim:
        claim = await self.shards.claim("r", owner, lease_seconds=lease_seconds)
        assert claim is not None
        return claim


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "runs.sqlite")
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = database_url(postgres.new_database())
    engine = await open_database(url, migrations=MIGRATIONS, schema="evaluation", durable=False)
    yield Stores(RunStore(engine), ShardStore(engine))
    await engine.dispose()


async def test_shards_are_planned_once_and_taken_lowest_first(stores: Stores) -> None:
    await stores.begun()
    await stores.shards.add("r", PLANNED)
    assert await stores.shards.all("r") == list(PLANNED)
    claims = [await stores.taken(owner) for owner in ("owner", "helper", "owner")]
    assert [(each.shard, each.epoch) for each in claims] == [(shard, 1) for shard in PLANNED[:3]]
    assert [each.worker_count for each in claims] == [1, 2, 2]
    assert await stores.shards.worker_count("r", "third") == 3


async def test_many_replicas_at_once_take_every_shard_once(stores: Stores) -> None:
    await stores.begun()

    async def take_all(owner: str) -> list[int]:
        numbers = []
        while (claim := await stores.shards.claim("r", owner, lease_seconds=LONG)) is not None:
            numbers.append(claim.shard.number)
        return numbers

    # One that was passed over, since another was taking it, is found at the next look.
    takers = await asyncio.gather(*(take_all(f"replica {index}") for index in range(6)))
    found = [number for numbers in takers for number in numbers] + await take_all("last")
    assert sorted(found) == [each.number for each in PLANNED]


async def test_who_has_lost_a_shard_changes_nothing_of_it(stores: Stores) -> None:
    run = await stores.begun()
    old = await stores.taken("helper", lease_seconds=OVER)
    new = await stores.taken("owner")
    assert (new.shard.number, new.epoch) == (old.shard.number, 2)
    told = dataclasses.replace(old, shard=dataclasses.replace(old.shard, scored_count=7))
    for lease_seconds in (LONG, None):
        with pytest.raises(LeaseLostError):
            await stores.shards.keep("r", "helper", told, lease_seconds=lease_seconds)
    assert (await stores.shards.all("r"))[0] == old.shard
    assert await stores.shards.shut_out("r") == run.fence + 1 == await stores.runs.fence("r", run.epoch)


async def test_a_board_tells_who_still_has_its_shards_what_to_tell_the_ledger(stores: Stores) -> None:
    run = await stores.begun()

    async def read_fence() -> int:
        return await stores.runs.fence("r")

    board = StoredBoard(stores.shards, "r", "helper", lease_seconds=LONG, read_fence=read_fence)
    first, second = await board.claim(), await board.claim()
    assert first is not None
    assert second is not None
    await stores.shards.shut_out("r")
    assert await board.confirm() == run.fence + 1
    done = dataclasses.replace(first, shard=dataclasses.replace(first.shard, scored_count=16))
    await board.settle(done)
    standing = await board.standing()
    assert standing[0] == dataclasses.replace(done.shard, is_done=True)
    # A word that was on its way meanwhile does not undo it.
    await board.renew([first])
    with pytest.raises(LeaseLostError):
        await stores.shards.keep("r", "helper", first, lease_seconds=LONG)
    assert await board.standing() == standing
    await stores.shards.give_back("helper")
    assert (await stores.taken("other")).shard.number == second.shard.number
    with pytest.raises(LeaseLostError):
        await board.confirm()


async def test_a_run_that_has_ended_has_no_shards_to_take_or_to_keep(stores: Stores) -> None:
    await stores.begun()
    claim = await stores.taken("helper")
    await stores.runs.cancel("r")
    assert await stores.shards.claim("r", "other", lease_seconds=LONG) is None
    with pytest.raises(LeaseLostError):
        await stores.shards.keep("r", "helper", claim, lease_seconds=LONG)
    with pytest.raises(LeaseLostError):
        await stores.shards.shut_out("r")
    with pytest.raises(LeaseLostError):
        await stores.runs.fence("r")
    await stores.shards.clear("r")
    assert await stores.shards.all("r") == []


async def test_help_goes_to_the_runs_of_others_that_have_shards_left(stores: Stores) -> None:
    await stores.begun()
    await stores.begun("urgent", priority=5)
    assert await stores.shards.in_need("owner") is None
    found = await stores.shards.in_need("helper")
    assert found is not None
    assert found.run_id == "urgent"
    found = await stores.shards.in_need("helper", without=["urgent"])
    assert found is not None
    assert found.run_id == "r"
    while await stores.shards.claim("r", "owner", lease_seconds=LONG) is not None:
        pass
    assert await stores.shards.in_need("helper", without=["urgent"]) is None
