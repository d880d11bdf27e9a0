"""One run at several replicas: each takes shards, and whatever happens to one of them, every item has one outcome."""

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.executor import TaskItems
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.leases import LeaseTimes
from services.evaluation.runs.manager import RunManager
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.record import Run, RunRequest, RunState
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import Renewal, ShardClaim, ShardPlan, shard_size
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.stored_board import StoredBoard
from services.evaluation.runs.tables import RUN_SHARDS
from services.evaluation.tasks import Suite
from services.runtime.database import open_database, sqlite_url
from tests.patience import LONGEST_WAIT_SECONDS, until

MIGRATIONS = Path(__file__).parents[4] / "services" / "evaluation" / "migrations"
ITEMS = 100
REQUEST = RunRequest(suite="demo", model="models/tiny", concurrency=6)
STEADY = LeaseTimes(lease_seconds=60.0, renewal_seconds=0.1, poll_seconds=0.1)
"""Nobody loses anything, however slow the machine is."""
SHORT = LeaseTimes(lease_seconds=1.5, renewal_seconds=0.1, poll_seconds=0.1)
"""For tests in which somebody is to be taken over."""


class Book:
    """A suite book with one suite whose items are given."""

    def __init__(self, suite: Suite, items: Sequence[Any], data_digest: str = "rows-1") -> None:
        self.suite = suite
        self.items = items
        self.data_digest = data_digest

    async def resolve(self, suite: str, tasks: Sequence[str] = ()) -> Suite:
        return self.suite

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        return [TaskItems(suite.tasks[0], self.items, self.data_digest)]


class SharedStore(RunStore):
    """The list of runs as replicas share it, though it is in a file."""

    @property
    def is_shared(self) -> bool:
        return True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SharedStore]:
    engine = await open_database(sqlite_url(tmp_path / "shared.sqlite"), migrations=MIGRATIONS, durable=False)
    yield SharedStore(engine)
    await engine.dispose()


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    return Book(Suite("demo", "a suite", (make_task(),)), [make_item(f"item {index}") for index in range(ITEMS)])


class Replica:
    """One of several managers on the same list of runs and the same ledger, with a generator of its own."""

    def __init__(self, store: RunStore, book: Book, fleet: Any, times: LeaseTimes = STEADY) -> None:
        self.generator = copy.copy(fleet.generator)
        self.generator.asked, self.generator.waiting = [], []
        self.generator.gate = asyncio.Event()
        self.runs = RunManager(
            store, book, dataclasses.replace(fleet.peers, generator=self.generator), parallel_runs=2,
            default_concurrency=4, patience_seconds=LONGEST_WAIT_SECONDS, lease_times=times,
        )  # fmt: skip

    @property
    def is_asking(self) -> bool:
        return bool(self.generator.waiting)

    def let_go(self) -> None:
        self.generator.gate.set()

    async def crash(self) -> None:
        """End everything at once and tell nobody."""
        tasks = [*self.runs._own_tasks, *self.runs._jobs.values()]
        with patch.object(self.runs._shards, "give_back", AsyncMock()):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def end_of(self, run_id: str) -> Run:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            return [run async for run in self.runs.watch(run_id)][-1]


async def started(
    store: RunStore, book: Book, fleet: Any, count: int, times: LeaseTimes = STEADY
) -> tuple[Run, list[Replica]]:
    """Start a run and wait until its owner, the first of the replicas, and all that help have items in flight."""
    replicas = [Replica(store, book, fleet, times) for _ in range(count)]
    owner, *helpers = replicas
    await owner.runs.start()
    run = await owner.runs.create(REQUEST)
    await until(lambda: owner.is_asking)
    for helper in helpers:
        await helper.runs.start()
    await until(lambda: all(each.is_asking for each in helpers))
    return run, replicas


def assert_complete(fleet: Any, ended: Run) -> None:
    assert ended.state is RunState.SUCCEEDED, ended.failure
    assert sorted(row.draw_index for row in fleet.ledger.rows.values()) == list(range(ITEMS))
    (progress,) = ended.progress
    assert (progress.item_count, progress.scored_count, progress.failed_count) == (ITEMS, ITEMS, 0)


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
