"""What a replica holds of a run: its shards, the fence under which it writes, the plan that all of them share."""

import dataclasses
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import Renewal, ShardPlan, shard_size
from services.evaluation.runs.stored_board import StoredBoard
from tests.unit.evaluation.runs.sharing.replicas import ITEMS, REQUEST, Replica
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book


async def board_of(store: SharedStore, book: Book, fleet: Any) -> tuple[ShardStore, StoredBoard]:
    """The board of a run that was just begun."""
    runs = Replica(store, book, fleet).runs
    run = await runs.create(REQUEST)
    await runs._shards.add(run.run_id, ShardPlan([("shout", ITEMS, 1)]).shards())
    read_fence = partial(store.fence, run.run_id)
    board = StoredBoard(runs._shards, run.run_id, "me", lease_seconds=60.0, read_fence=read_fence)
    return runs._shards, board


async def test_a_late_word_for_a_shard_that_was_taken_anew_changes_nothing(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    shards, board = await board_of(store, book, fleet)
    first = await board.claim()
    assert first is not None
    await shards.give_back("me")
    again = await board.claim()
    assert again is not None
    assert (again.shard.number, again.epoch) == (first.shard.number, 2)
    late = dataclasses.replace(first, shard=dataclasses.replace(first.shard, scored_count=9))
    assert await board.renew([late]) == Renewal(worker_count=1)
    assert (await board.standing())[0] == again.shard
    await board.settle(again)


async def test_who_loses_a_shard_after_the_look_at_it_is_not_told_the_fence_that_shuts_it_out(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, board = await board_of(store, book, fleet)
    assert await board.claim() is not None
    keep, run_id = shards.keep, board._run_id
    before = await store.fence(run_id)

    async def keep_and_lose(*arguments: Any, **options: Any) -> None:
        await keep(*arguments, **options)
        await shards.give_back("me")
        assert await shards.claim(run_id, "other", lease_seconds=60.0) is not None
        await shards.shut_out(run_id)

    monkeypatch.setattr(shards, "keep", keep_and_lose)
    assert await board.confirm() == before < await store.fence(run_id)


async def test_after_an_outage_a_board_keeps_what_it_holds_before_it_takes_more(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, board = await board_of(store, book, fleet)
    first = await board.claim()
    assert first is not None
    # Nobody has said a word for so long that the lease has ended.
    await shards.give_back("me")
    monkeypatch.setattr(board, "_renew_time", float("-inf"))
    second = await board.claim()
    assert second is not None
    assert (second.shard.number, second.epoch) == (first.shard.number + 1, 1)


def any_outcome(_: ItemOutcome) -> bool:
    return True


async def test_a_write_under_an_older_fence_goes_through_for_who_still_has_its_shards(fleet: Any) -> None:
    fence = 3

    async def confirm() -> int:
        return fence

    mine = FencedLedger(fleet.ledger, 2, confirm, any_outcome)
    await fleet.ledger.fenced(3).append("runs/r", ())
    await mine.append("runs/r", ())

    async def refuse() -> int:
        raise LeaseLostError("somebody else's")

    with pytest.raises(LeaseLostError):
        await FencedLedger(fleet.ledger, 2, refuse, any_outcome).append("runs/r", ())
    fence = 2
    with pytest.raises(LeaseLostError):
        await FencedLedger(fleet.ledger, 2, confirm, any_outcome).append("runs/r", ())


@given(st.lists(st.integers(0, 3000), max_size=5))
def test_shards_have_every_item_of_every_task_once_and_in_order(item_counts: list[int]) -> None:
    counts = [(f"task {index}", count) for index, count in enumerate(item_counts)]
    shards = ShardPlan((task, count, 1) for task, count in counts).shards()
    assert [each.number for each in shards] == list(range(len(shards)))
    found = [(each.task, index) for each in shards for index in each.draw_indices]
    assert found == [(task, index) for task, count in counts for index in range(count)]
    assert all(0 < each.draw_count <= shard_size(dict(counts)[each.task]) for each in shards)


def test_a_plan_knows_what_the_ledger_has() -> None:
    plan = ShardPlan([("t", 20, 2)])
    for draw_index in range(17):
        plan.note("t", draw_index, failed=False)
        plan.note("t", draw_index, failed=draw_index == 16)
    plan.note("another", 0, failed=False)
    first, second = plan.shards()
    assert (first.is_done, first.scored_count, first.failed_count) == (True, 32, 0)
    assert (second.is_done, second.scored_count, second.failed_count) == (False, 1, 1)
