"""Who may take, write and shut out what while blocks are handed out."""

import asyncio
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.block_store import HelperBoard, StoredBlocks
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.shards import Shard
from services.evaluation.runs.stored_board import StoredBoard
from tests.unit.evaluation.runs.sharing.blocks.handed_out import HandedOut
from tests.unit.evaluation.runs.sharing.blocks.stepped_replicas import (
    block_numbers,
    helper_count,
    until_async,
)
from tests.unit.evaluation.runs.stored_runs import SharedStore


async def test_an_owner_takes_no_block_for_a_shard_of_its_tasks_that_are_run_in_full(
    store: SharedStore, fleet: Any
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    own = StoredBoard(handed.shards, "r", "owner", lease_seconds=60.0, read_fence=AsyncMock(return_value=1))
    await own.plan([Shard(0, "full", 0, 16)])
    first = await own.claim()
    assert first is not None
    assert first.shard.task == "full"
    assert await own.claim() is None
    assert [each.number for each in await own.standing()] == [0]
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def test_what_waits_for_the_ledger_of_a_withdrawn_block_is_dropped_whoever_noticed_first(
    store: SharedStore, fleet: Any
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    board = HelperBoard(
        handed.blocks, handed.shards, "r", "helper", lease_seconds=60.0, read_fence=partial(store.fence, "r")
    )
    claim = await board.claim()
    assert claim is not None
    saved: list[ItemOutcome] = []
    fenced = FencedLedger(fleet.ledger, await store.fence("r"), board.confirm, board.may_write)
    writer = LedgerWriter(fenced, "runs/r", on_saved=saved.extend, on_decision=lambda _: None)
    of_block, of_others = (
        ItemOutcome("shout", f"item {index}", 0, index, metrics={"exact_match": 1.0}, failure=None)
        for index in (3, BLOCK_ITEMS)
    )
    await writer.write(of_block)
    await writer.write(of_others)
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    # The helper's own look comes first, then the owner shuts out and counts, then the writer.
    assert claim.shard.number in (await board.renew([claim])).withdrawn
    await handed.sharing.finish()
    await writer.finish()
    await writer.drain()
    assert saved == [of_others]
    assert [row.draw_index for row in fleet.ledger.rows.values()] == [BLOCK_ITEMS]


async def test_a_helper_that_moves_the_fence_on_learns_what_it_is_itself_shut_out_of(
    store: SharedStore, fleet: Any
) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    board = HelperBoard(
        handed.blocks, handed.shards, "r", "helper", lease_seconds=60.0, read_fence=partial(store.fence, "r")
    )
    assert await board.claim() is not None
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
    outcome = ItemOutcome("shout", "item 3", 0, 3, metrics={"exact_match": 1.0}, failure=None)
    assert board.may_write(outcome)
    await board.shut_out()
    assert not board.may_write(outcome)


async def test_a_block_calls_no_helper_besides_those_that_wait_for_blocks(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    assert await handed.shards.in_need("idle") is None
    await handed.shards.add("r", [Shard(0, "full", 0, 16)])
    assert await handed.shards.in_need("idle") is not None
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def test_who_has_lost_a_run_moves_its_fence_no_more(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    await until_async(lambda: block_numbers(store))
    old = StoredBlocks(handed.blocks, handed.shards, "r", 1)
    before = await old.shut_out()
    await store.give_back("owner")
    taken = await store.claim("other", lease_seconds=60.0)
    assert taken is not None
    assert taken.fence == before + 1
    with pytest.raises(LeaseLostError):
        await old.shut_out()
    assert await store.fence("r") == taken.fence
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def test_a_helper_that_says_twice_at_once_that_it_waits_is_one_that_waits(store: SharedStore, fleet: Any) -> None:
    handed = HandedOut(store, fleet)
    sharing = await handed.begin()
    # It asks for a block and keeps those that it has at the same time, and the database may answer late.
    await asyncio.gather(*(handed.blocks.attend("r", "helper", seconds=60.0) for _ in range(2)))
    # Beside the one that waits for this block.
    assert await helper_count(store) == 2
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)
