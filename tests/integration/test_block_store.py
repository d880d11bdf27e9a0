"""Blocks of drawn items in a file and in a real PostgreSQL: who may publish, take and withdraw which."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.block_store import BlockStore, HelperBoard, StoredBlocks
from services.evaluation.runs.blocks import BLOCK_ITEMS, block_of
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.record import Run, RunState
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import Renewal, Shard, ShardClaim
from services.evaluation.runs.store import Claim, RunStore
from services.runtime.database import database_url, open_database, sqlite_url
from services.standalone.postgres_server import PostgresServer

pytestmark = pytest.mark.integration

MIGRATIONS = Path(__file__).parents[2] / "services" / "evaluation" / "migrations"
LONG = 60.0
"""A lease that does not end within a test."""
OVER = -1.0
"""A lease that has ended already."""


def decision(**changes: object) -> TaskDecision:
    undecided = TaskDecision(
        "t", "m", (), is_decided=False, value=None, lower=0.0, upper=1.0, confidence_level=0.95, method="x",
        completed_count=0, drawn_count=0, item_count=5000, saved_count=5000,
    )  # fmt: skip
    return dataclasses.replace(undecided, **changes)  # type: ignore[arg-type]


@dataclasses.dataclass
class Stores:
    runs: RunStore
    shards: ShardStore
    blocks: BlockStore

    async def begun(self, run_id: str = "r", owner: str = "owner", concurrency: int = 64, priority: int = 0) -> Claim:
        """A run that somebody has begun."""
        run = Run(
            run_id, "demo", "s", "models/tiny", "m", seed=1, concurrency=concurrency, create_time=1.0, caller="a",
            state=RunState.RUNNING, decisions=(decision(),), priority=priority,
        )  # fmt: skip
        await self.runs.add(run)
        claim = await self.runs.claim(owner, lease_seconds=LONG)
        assert claim is not None
        return claim

    def owned(self, claim: Claim) -> StoredBlocks:
        return StoredBlocks(self.blocks, self.shards, claim.run.run_id, claim.epoch)

    async def taken(self, helper: str, lease_seconds: float = LONG) -> ShardClaim:
        claim = await self.shards.claim("r", helper, lease_seconds=lease_seconds)
        assert claim is not None
        return claim

    def helping(self, helper: str = "helper") -> HelperBoard:
        async def read_fence() -> int:
            return await self.runs.fence("r")

        return HelperBoard(self.blocks, self.shards, "r", helper, lease_seconds=LONG, read_fence=read_fence)


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "runs.sqlite")
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url = database_url(postgres.new_database())
    engine = await open_database(url, migrations=MIGRATIONS, schema="evaluation", durable=False)
    yield Stores(RunStore(engine), ShardStore(engine), BlockStore(engine))
    await engine.dispose()


def block(number: int) -> Shard:
    return block_of(number, "t", [(40 + index, 4999 - index) for index in range(BLOCK_ITEMS)])


async def test_a_helper_gets_a_block_as_it_was_published_and_its_owner_what_was_told(stores: Stores) -> None:
    board = stores.owned(await stores.begun())
    published = block(board.new_number())
    await board.publish(published)
    await board.publish(published)  # whose first answer was lost
    look = await board.look()
    (found,) = look.blocks.values()
    assert (found.shard, found.epoch, found.is_free) == (published, 0, True)
    claim = await stores.taken("helper")
    assert claim.shard == published
    assert not (await board.look()).blocks[published.number].is_free
    told = dataclasses.replace(published, scored_count=20, failed_count=12, spent=Spend(32, 640, 1.5, 7))
    await stores.shards.keep("r", "helper", dataclasses.replace(claim, shard=told), lease_seconds=None)
    (found,) = (await board.look()).blocks.values()
    assert found.shard == dataclasses.replace(told, is_done=True)
    assert not found.is_free
    assert (await board.withdraw(published.number)) == found
    assert (await board.look()).blocks == {}


async def test_who_has_lost_a_run_publishes_and_withdraws_nothing(stores: Stores) -> None:
    first = await stores.begun()
    old = stores.owned(first)
    await old.publish(block(old.new_number()))
    await stores.runs.give_back("owner")
    second = await stores.runs.claim("other", lease_seconds=LONG)
    assert second is not None
    new = stores.owned(second)
    with pytest.raises(LeaseLostError):
        await old.publish(block(old.new_number()))
    (number,) = (await new.look()).blocks
    assert await old.withdraw(number) is None
    await old.withdraw_all()
    assert list((await new.look()).blocks) == [number]
    await new.withdraw_all()
    assert (await new.look()).blocks == {}
    assert new.new_number() != old.new_number()


async def test_a_block_is_taken_back_only_while_nobody_works_on_it(stores: Stores) -> None:
    board = stores.owned(await stores.begun())
    first, second = block(board.new_number()), block(board.new_number())
    await board.publish(first)
    await stores.taken("helper")
    await board.publish(second)
    await stores.taken("dead", OVER)
    assert await board.withdraw(first.number, if_free=True) is None
    found = await board.withdraw(second.number, if_free=True)
    assert found is not None
    assert (found.epoch, found.is_free) == (1, True)


async def test_of_a_helper_and_an_owner_who_takes_a_block_back_one_gets_it(stores: Stores) -> None:
    board = stores.owned(await stores.begun())
    for _ in range(20):
        number = board.new_number()
        await board.publish(block(number))
        taken, withdrawn = await asyncio.gather(
            stores.shards.claim("r", "helper", lease_seconds=LONG), board.withdraw(number, if_free=True)
        )
        assert (taken is None) != (withdrawn is None)


async def test_a_withdrawn_block_is_no_loss_and_one_that_somebody_else_has_is(stores: Stores) -> None:
    owned = stores.owned(await stores.begun())
    helper = stores.helping()
    await owned.publish(block(owned.new_number()))
    await owned.publish(block(owned.new_number()))
    claims = [await helper.claim(), await helper.claim()]
    first, second = (each for each in claims if each is not None)
    await owned.withdraw(first.shard.number)
    assert await helper.renew([first, second]) == Renewal(1, frozenset({first.shard.number}))
    await owned.withdraw(second.shard.number)
    await helper.settle(second)
    await owned.publish(block(owned.new_number()))
    third = await helper.claim()
    assert third is not None
    await stores.shards.give_back("helper", "r")
    await stores.taken("other")
    with pytest.raises(LeaseLostError):
        await helper.renew([third])


async def test_a_write_is_not_confirmed_to_who_has_a_block_that_was_withdrawn(stores: Stores) -> None:
    owned = stores.owned(await stores.begun())
    helper = stores.helping()
    await owned.publish(block(owned.new_number()))
    assert await helper.claim() is not None
    await owned.withdraw_all()
    with pytest.raises(LeaseLostError):
        await helper.confirm()


async def test_an_owner_learns_who_waits_for_blocks(stores: Stores) -> None:
    owned = stores.owned(await stores.begun())
    assert (await owned.look()).helper_count == 0
    assert await stores.helping().claim() is None
    await stores.helping().renew([])
    await stores.blocks.attend("r", "silent", seconds=OVER)
    assert (await owned.look()).helper_count == 1
    await stores.blocks.leave("helper", "r")
    assert (await owned.look()).helper_count == 0
    with pytest.raises(LeaseLostError):
        await stores.helping("owner").claim()
    await stores.runs.cancel("r")
    with pytest.raises(LeaseLostError):
        await stores.helping().renew([])


async def test_helpers_wait_where_there_is_a_block_for_them(stores: Stores) -> None:
    await stores.begun()
    await stores.begun("narrow", concurrency=63, priority=9)
    await stores.begun("wide", concurrency=96, priority=1)

    async def found(helper: str, *without: str) -> str | None:
        run = await stores.blocks.in_want(helper, without=without)
        return None if run is None else run.run_id

    assert await found("owner") is None
    assert await found("first") == "wide"
    assert await found("first", "wide") == "r"
    for helper in ("first", "second"):
        await stores.blocks.attend("wide", helper, seconds=LONG)
    assert await found("third") == "r"
    assert await found("first") == "wide"
    await stores.blocks.clear("wide")
    assert await found("third") == "wide"
