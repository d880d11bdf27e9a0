"""Every item of a block counts once and costs what is known of it, whoever brought it and however the block ended."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import pytest

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.block_store import StoredBlocks
from services.evaluation.runs.blocks import BLOCK_ITEMS, BlocksLook
from services.evaluation.runs.budget import Spend
from services.runtime.errors import UnavailableError
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.sharing.blocks.handed_out import HandedOut
from tests.unit.evaluation.runs.sharing.blocks.stepped_replicas import (
    block_numbers,
    until_async,
)
from tests.unit.evaluation.runs.stored_runs import SharedStore


@pytest.mark.parametrize("sample_count", [1, 2])
async def test_items_that_a_dead_helper_brought_count_as_what_was_reserved(
    store: SharedStore, fleet: Any, sample_count: int
) -> None:
    handed = HandedOut(store, fleet, sample_count)
    sharing = await handed.begin()
    claim = await handed.taken("first")
    await handed.tell("first", claim, scored_count=4 * sample_count, spent=Spend(4, 40))
    await handed.brought(*range(10))
    await handed.shards.give_back("first")
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        left = await sharing
    assert [each.draw_index for each in left] == list(range(10, BLOCK_ITEMS))
    assert handed.cost == (10, Spend(0, 40), 6)
    assert sum(scored for _, scored, _ in handed.counts) == 10 * sample_count


async def test_items_that_a_helper_took_over_count_as_what_was_reserved(
    store: SharedStore, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = HandedOut(store, fleet)
    may_look, look = asyncio.Event(), StoredBlocks.look

    async def look_later(self: StoredBlocks) -> BlocksLook:
        await may_look.wait()
        return await look(self)

    # The owner looks too late to take it back.
    monkeypatch.setattr(StoredBlocks, "look", look_later)
    sharing = await handed.begin()
    await handed.taken("first")
    await handed.brought(*range(10))
    await handed.shards.give_back("first")
    claim = await handed.taken("second")
    await handed.tell("second", claim, scored_count=BLOCK_ITEMS, spent=Spend(22, 220))
    may_look.set()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        assert await sharing == ()
    assert handed.cost == (BLOCK_ITEMS, Spend(0, 220), 10)
    assert all(handed.known.has_all("shout", draw.draw_index) for draw in handed.draws)


async def test_a_block_that_nobody_waits_for_any_more_goes_back_at_once(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    await handed.blocks.leave("waiting")
    async with asyncio.timeout(LONGEST_WAIT_SECONDS / 2):
        assert await sharing == handed.draws
    assert handed.cost == (0, Spend(), 0)
    assert not handed.account.was_taken


async def test_what_a_helper_brought_of_a_withdrawn_block_is_counted_once(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    claim = await handed.taken("helper")
    await handed.tell("helper", claim, scored_count=4, spent=Spend(4, 40))
    await until(lambda: handed.cost[0] == 4)
    await handed.brought(*range(7))
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    await handed.sharing.finish()
    await handed.sharing.finish()
    assert sum(scored for _, scored, _ in handed.counts) == 7
    assert await block_numbers(store) == []
    with pytest.raises(LeaseLostError):
        await handed.ledger.fenced(1).append("runs/r", ())


async def test_a_block_that_could_not_be_withdrawn_at_once_is_gone_before_anything_else_of_the_run_begins(
    store: SharedStore, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    claim = await handed.taken("helper")

    async def away(*_: object, **__: object) -> None:
        raise RunsUnavailableError("restarting")

    monkeypatch.setattr(handed.blocks, "withdraw", away)
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    await handed.brought(*range(7))
    await handed.sharing.finish()
    assert await block_numbers(store) == []
    assert await handed.shards.is_withdrawn("r", claim.shard.number)
    assert sum(scored for _, scored, _ in handed.counts) == 7
    with pytest.raises(LeaseLostError):
        await handed.ledger.fenced(1).append("runs/r", ())


@pytest.mark.parametrize(("was_taken", "is_away"), [(False, False), (True, False), (False, True)])
async def test_only_a_block_that_somebody_may_have_asked_costs_what_was_reserved(
    store: SharedStore, fleet: Any, monkeypatch: pytest.MonkeyPatch, was_taken: bool, is_away: bool
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    if was_taken:
        await handed.taken("helper")
    if is_away:
        monkeypatch.setattr(handed.blocks, "withdraw", AsyncMock(side_effect=RunsUnavailableError("restarting")))
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    assert handed.account.was_taken is (was_taken or is_away)
    await handed.sharing.finish()


async def test_a_block_of_which_nobody_can_say_what_is_done_ends_the_run(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await handed.taken("helper")

    async def refuse(*_: object) -> None:
        raise UnavailableError("the ledger is away", retry_after_seconds=2.0)

    fleet.ledger.fenced = lambda _: AsyncMock(append=refuse)
    await handed.shards.give_back("helper")
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        with pytest.raises(UnavailableError):
            await sharing


async def test_a_block_that_is_withdrawn_while_it_is_taken_back_is_counted_once(
    store: SharedStore, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await handed.taken("helper")
    await handed.brought(*range(7))
    is_reading, may_read, keys = asyncio.Event(), asyncio.Event(), type(handed.ledger).keys

    async def keys_later(self: Any, run: str) -> AsyncIterator[Any]:
        is_reading.set()
        await may_read.wait()
        async for key in keys(self, run):
            yield key

    monkeypatch.setattr(type(handed.ledger), "keys", keys_later)
    await handed.shards.give_back("helper")
    await is_reading.wait()
    sharing.remove_done_callback(handed.stop_watching)
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    may_read.set()
    await until(lambda: bool(handed.counts))
    await handed.sharing.finish()
    handed.stop_watching(sharing)
    assert sum(scored for _, scored, _ in handed.counts) == 7
