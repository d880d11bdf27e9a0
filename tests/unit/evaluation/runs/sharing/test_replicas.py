"""One run at several replicas: each takes shards, and whatever happens to one of them, every item has one outcome."""

import asyncio
import dataclasses
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.record import Run
from services.evaluation.runs.shards import ShardClaim, ShardPlan, shard_size
from services.evaluation.runs.tables import RUN_SHARDS
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.sharing.replicas import ITEMS, REQUEST, SHORT, Replica, assert_complete, started
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book


async def _column(query: Select[str], connection: AsyncConnection) -> list[str]:
    return list((await connection.execute(query)).scalars())


async def test_replicas_share_one_run_and_ask_no_item_twice(store: SharedStore, book: Book, fleet: Any) -> None:
    run, replicas = await started(store, book, fleet, 3)
    for each in replicas:
        each.let_go()
    ended = await replicas[0].end_of(run.run_id)
    assert_complete(fleet, ended)
    asked = [text for each in replicas for text in each.generator.asked]
    assert sorted(asked) == sorted(item.item_id for item in book.items)
    assert all(each.generator.asked for each in replicas)
    assert await replicas[0].runs._shards.all(run.run_id) == []
    for each in replicas:
        assert await each.runs.get(run.run_id) == ended
        await each.runs.stop()


async def test_the_shard_of_a_helper_that_dies_is_taken_over(store: SharedStore, book: Book, fleet: Any) -> None:
    run, (owner, helper) = await started(store, book, fleet, 2, SHORT)
    await helper.crash()
    owners = select(RUN_SHARDS.c.lease_owner).where(RUN_SHARDS.c.lease_end_time.is_not(None))
    assert helper.runs._leases.owner in await store.transact(partial(_column, owners))
    owner.let_go()
    assert_complete(fleet, await owner.end_of(run.run_id))
    assert not helper.generator.asked
    await owner.runs.stop()


async def test_a_helper_that_stops_gives_its_shard_back_at_once(store: SharedStore, book: Book, fleet: Any) -> None:
    run, (owner, helper) = await started(store, book, fleet, 2)
    await helper.runs.stop()
    owners = select(RUN_SHARDS.c.lease_owner).where(RUN_SHARDS.c.lease_end_time.is_not(None))
    assert await store.transact(partial(_column, owners)) == [owner.runs._leases.owner]
    owner.let_go()
    assert_complete(fleet, await owner.end_of(run.run_id))
    await owner.runs.stop()


async def test_a_helper_stops_also_while_the_list_of_runs_is_away(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (owner, helper) = await started(store, book, fleet, 2)

    async def give_back(*_: object) -> None:
        raise RunsUnavailableError("restarting")

    monkeypatch.setattr(helper.runs._shards, "give_back", give_back)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await helper.runs.stop()
    await owner.runs.stop()


async def test_a_helper_that_loses_a_shard_gives_the_others_back(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store, book, fleet)
    run = await replica.runs.create(REQUEST)
    shards, helper = replica.runs._shards, replica.runs._helper
    await shards.add(run.run_id, ShardPlan([("shout", ITEMS, 1)]).shards())
    held = await shards.claim(run.run_id, replica.runs._leases.owner, lease_seconds=60.0)
    assert held is not None

    async def lose(_: Run) -> None:
        raise LeaseLostError("somebody else's")

    monkeypatch.setattr(helper, "_work_on", lose)
    with pytest.raises(LeaseLostError):
        await helper._help(run)
    taken = await shards.claim(run.run_id, "other", lease_seconds=60.0)
    assert taken is not None
    assert taken.shard.number == held.shard.number


async def test_helpers_go_on_while_the_owner_is_dead_and_one_of_them_ends_the_run(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, (owner, helper) = await started(store, book, fleet, 2, SHORT)
    await owner.crash()
    helper.let_go()
    assert_complete(fleet, await helper.end_of(run.run_id))
    assert not owner.generator.asked
    await helper.runs.stop()


async def test_a_helper_that_was_taken_for_dead_changes_nothing_when_it_goes_on(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, (owner, helper) = await started(store, book, fleet, 2, SHORT)
    keep, is_stopped = helper.runs._shards.keep, asyncio.Event()

    async def keep_later(*arguments: Any, **options: Any) -> None:
        await is_stopped.wait()
        await keep(*arguments, **options)

    monkeypatch.setattr(helper.runs._shards, "keep", keep_later)
    owner.let_go()
    ended = await owner.end_of(run.run_id)
    assert_complete(fleet, ended)
    rows = dict(fleet.ledger.rows)
    is_stopped.set()
    helper.let_go()
    await until(lambda: not helper.runs._helper.is_helping)
    assert fleet.ledger.rows == rows
    assert await store.get(run.run_id) == ended
    for each in (owner, helper):
        await each.runs.stop()


async def test_who_has_other_data_does_not_help(store: SharedStore, book: Book, fleet: Any, make_task: Any) -> None:
    owner = Replica(store, book, fleet)
    other = Replica(store, Book(book.suite, book.items, "rows-2"), fleet)
    await owner.runs.start()
    run = await owner.runs.create(REQUEST)
    await until(lambda: owner.is_asking)
    await other.runs.start()
    await until(lambda: bool(other.runs._helper._left))
    owner.let_go()
    assert_complete(fleet, await owner.end_of(run.run_id))
    assert not other.is_asking
    for each in (owner, other):
        await each.runs.stop()


async def test_a_cancelled_run_is_left_by_all(store: SharedStore, book: Book, fleet: Any) -> None:
    run, (owner, helper) = await started(store, book, fleet, 2)
    await owner.runs.cancel(run.run_id)
    helper.let_go()
    await until(lambda: not helper.runs._helper.is_helping)
    assert not fleet.ledger.rows
    for each in (owner, helper):
        await each.runs.stop()


async def test_cancelling_again_does_what_the_first_call_did_not_reach(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    """Who cancelled died between the list of runs and the ledger, while a replica that works on it was paused."""
    run, (owner, helper) = await started(store, book, fleet, 2)
    fence = await store.cancel(run.run_id)
    assert fence is not None
    assert await owner.runs._shards.all(run.run_id)
    await helper.runs.cancel(run.run_id)
    outcome = ItemOutcome("shout", "item 0", 0, 0, metrics={"exact_match": 1.0}, failure=None)
    with pytest.raises(LeaseLostError):
        await fleet.ledger.fenced(fence - 1).append(run.name, [outcome])
    assert await owner.runs._shards.all(run.run_id) == []
    for each in (owner, helper):
        await each.runs.stop()


async def test_a_run_whose_last_save_was_not_answered_leaves_no_shards(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = store.save

    async def cut_off(run: Run, *arguments: Any, **options: Any) -> None:
        await save(run, *arguments, **options)
        if run.end_time:
            monkeypatch.setattr(store, "save", save)
            raise RunsUnavailableError("the connection broke", retry_after_seconds=0.01)

    monkeypatch.setattr(store, "save", cut_off)
    owner = Replica(store, book, fleet)
    run = await owner.runs.create(REQUEST)
    owner.let_go()
    await owner.runs.start()
    assert_complete(fleet, await owner.end_of(run.run_id))
    await until(lambda: not owner.runs._jobs)
    assert await owner.runs._shards.all(run.run_id) == []
    await owner.runs.stop()


async def test_a_shard_that_is_taken_over_goes_on_where_it_was_and_shuts_its_holder_out(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    owner = Replica(store, book, fleet)
    run = await owner.runs.create(REQUEST)
    # Somebody else had the run and a shard, has one outcome of that, and says nothing any more.
    dead = await store.claim("dead", lease_seconds=-1.0)
    assert dead is not None
    shards = owner.runs._shards
    await shards.add(run.run_id, ShardPlan([("shout", ITEMS, 1)]).shards())
    assert await shards.claim(run.run_id, "dead", lease_seconds=-1.0) is not None
    outcome = ItemOutcome("shout", "item 0", 0, 0, metrics={"exact_match": 1.0}, failure=None)
    await fleet.ledger.fenced(dead.fence).append(run.name, [outcome])
    owner.let_go()
    await owner.runs.start()
    assert_complete(fleet, await owner.end_of(run.run_id))
    assert sorted(owner.generator.asked) == sorted(f"item {index}" for index in range(1, ITEMS))
    # One fence for the run that was taken over, one for the shard.
    with pytest.raises(LeaseLostError):
        await fleet.ledger.fenced(dead.fence + 1).append(run.name, ())
    await fleet.ledger.fenced(dead.fence + 2).append(run.name, ())
    await owner.runs.stop()


async def test_a_shard_whose_own_lease_ended_goes_on_and_asks_no_item_twice(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away for longer than a lease while all items of a shard are in flight."""
    owner = Replica(store, book, fleet)
    shards, claim = owner.runs._shards, owner.runs._shards.claim
    claimed: list[ShardClaim | None] = []

    async def claim_after_an_outage(run_id: str, replica: str, **options: Any) -> ShardClaim | None:
        if len(claimed) == 1:
            await shards.give_back(replica, run_id)
        claimed.append(await claim(run_id, replica, **options))
        return claimed[-1]

    monkeypatch.setattr(shards, "claim", claim_after_an_outage)
    await owner.runs.start()
    run = await owner.runs.create(dataclasses.replace(REQUEST, concurrency=shard_size(ITEMS)))
    await until(lambda: len(claimed) > 1)
    owner.let_go()
    ended = await owner.end_of(run.run_id)
    await owner.runs.stop()
    assert_complete(fleet, ended)
    assert sorted(owner.generator.asked) == sorted(item.item_id for item in book.items)
    first, again = claimed[:2]
    assert first is not None
    assert again is not None
    assert (again.shard.number, again.epoch) == (first.shard.number, 2)
