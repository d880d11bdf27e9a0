"""One run whose items are drawn at several replicas: helpers take blocks, and nothing of the run's promises changes."""

import asyncio
import dataclasses
from random import Random
from typing import Any
from unittest.mock import AsyncMock

import pytest

from services.evaluation.runs import block_sharing
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.evaluation.runs.executor import RunExecutor
from services.evaluation.runs.gates import GoalWish, parsed_gate
from services.evaluation.runs.record import Run, RunState, StopReason
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.sharing.blocks.stepped_replicas import (
    CONCURRENCY,
    ITEMS,
    REQUEST,
    SteppedReplica,
    block_numbers,
    end_leases,
    first_draws,
    helped,
    helper_count,
    started,
)
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book, some_items


async def alone(fleet: Any, book: Book, run: Run) -> Run:
    """The same run as one process alone works on it."""
    calm = type(fleet)()
    calm.ledger.drawings.batch = fleet.ledger.drawings.batch
    new = Run(
        run.run_id, run.suite, run.suite_digest, run.model, run.model_digest, run.seed, run.concurrency, 0.0,
        goal=run.goal,
    )  # fmt: skip
    job = RunExecutor(new, calm.peers, on_change=lambda _: None, patience_seconds=LONGEST_WAIT_SECONDS)
    job.begin(await book.draw(book.suite, seed=run.seed, limit=None))
    await job.execute()
    return job.run


def found(run: Run) -> list[tuple[Any, ...]]:
    """What a run found out, without what depends on how far items in flight had come."""
    return [(each.value, each.lower, each.upper, each.completed_count, each.questions) for each in run.decisions]


def assert_within_budget(fleet: Any, ended: Run, count: int = 800) -> None:
    assert ended.state is RunState.SUCCEEDED, ended.failure
    assert ended.stop_reason is StopReason.BUDGET_EXHAUSTED
    draws = sorted(row.draw_index for row in fleet.ledger.rows.values())
    assert draws == list(range(count))
    (progress,) = ended.progress
    assert progress.scored_count + progress.failed_count == count
    assert ended.spent.items == count


async def test_a_helper_asks_a_part_of_a_budgeted_run_and_nothing_else_changes(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, owner, helper = await started(store, book, fleet)
    for each in (owner, helper):
        each.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    assert_within_budget(fleet, ended)
    assert found(ended) == found(await alone(fleet, book, ended))
    asked = owner.stepped.asked + helper.stepped.asked
    assert len(asked) == len(set(asked)) == 800
    assert len(helper.stepped.asked) >= BLOCK_ITEMS
    assert ended.spent.engine_seconds == sum(row.usage.engine_seconds for row in fleet.ledger.rows.values())
    await until(lambda: not helper.runs._helper.is_helping)
    for each in (owner, helper):
        await each.runs.stop()
    assert await block_numbers(store) == []
    assert await helper_count(store) == 0


async def test_owner_and_helpers_have_no_more_in_flight_than_one_replica_may(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, owner, helper = await started(store, book, fleet)
    most = 0
    while not (await owner.runs.get(run.run_id)).state.is_final:
        most = max(most, len(owner.stepped.waiting) + len(helper.stepped.waiting))
        for each in (owner, helper):
            each.stepped.allow(8)
        await asyncio.sleep(0.005)
    assert BLOCK_ITEMS < most <= CONCURRENCY
    for each in (owner, helper):
        await each.runs.stop()


async def test_the_block_of_a_helper_that_dies_goes_back_to_the_owner(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, owner, helper = await started(store, book, fleet)
    helper.stepped.allow(BLOCK_ITEMS // 2)
    await until(lambda: len(helper.stepped.asked) == BLOCK_ITEMS // 2)
    await until(lambda: set(helper.stepped.asked) <= {row.item for row in fleet.ledger.rows.values()})
    await helper.crash()
    await end_leases(store, helper)
    owner.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    assert_within_budget(fleet, ended)
    asked = owner.stepped.asked + helper.stepped.asked
    assert len(asked) == len(set(asked)) == 800
    assert found(ended) == found(await alone(fleet, book, ended))
    await owner.runs.stop()


async def test_a_helper_that_stops_gives_its_block_back_at_once(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, owner, helper = await started(store, book, fleet)
    steps: list[str] = []

    def noted(of: object, name: str) -> None:
        do = getattr(of, name)

        async def note(*arguments: Any) -> None:
            await do(*arguments)
            steps.append(name)

        monkeypatch.setattr(of, name, note)

    noted(helper.runs._helper._blocks, "leave")
    noted(helper.runs._helper._shards, "give_back")
    await helper.runs.stop()
    # An owner that sees the block free reckons with no helper any more.
    assert steps[:2] == ["leave", "give_back"]
    owner.stepped.allow(ITEMS)
    assert_within_budget(fleet, await owner.end_of(run.run_id))
    assert not helper.stepped.asked
    await owner.runs.stop()


async def test_a_helper_takes_the_run_of_an_owner_that_dies_and_finds_the_same(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, owner, helper = await started(store, book, fleet)
    await owner.crash()
    await end_leases(store, owner)
    helper.stepped.allow(2 * ITEMS)
    ended = await helper.end_of(run.run_id)
    assert_within_budget(fleet, ended)
    assert found(ended) == found(await alone(fleet, book, ended))
    await helper.runs.stop()
    assert await block_numbers(store) == []


async def test_a_helper_that_was_taken_for_dead_changes_nothing_when_it_goes_on(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, owner, helper = await started(store, book, fleet)
    is_awake = asyncio.Event()

    def later(do: Any) -> Any:
        async def wait(*arguments: Any, **options: Any) -> Any:
            await is_awake.wait()
            return await do(*arguments, **options)

        return wait

    monkeypatch.setattr(block_sharing, "_UNCLAIMED_SECONDS", 0.1)
    for name in ("keep", "claim"):
        monkeypatch.setattr(helper.runs._shards, name, later(getattr(helper.runs._shards, name)))
    await end_leases(store, helper)
    owner.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    assert_within_budget(fleet, ended)
    rows = dict(fleet.ledger.rows)
    is_awake.set()
    helper.stepped.allow(ITEMS)
    await until(lambda: not helper.runs._helper.is_helping)
    assert fleet.ledger.rows == rows
    assert await store.get(run.run_id) == ended
    for each in (owner, helper):
        await each.runs.stop()


async def test_a_block_that_nobody_takes_goes_back_to_the_owner(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_sharing, "_UNCLAIMED_SECONDS", 0.1)
    # On a slow machine the rest of the run takes longer than the owner's pause.
    monkeypatch.setattr(block_sharing, "_PAUSE_SECONDS", 3600.0)
    owner = SteppedReplica(store, book, fleet)
    await owner.runs.start()
    run = await owner.runs.create(REQUEST)
    await until(lambda: len(owner.stepped.waiting) == CONCURRENCY)
    publish = AsyncMock(side_effect=owner.runs._blocks.publish)
    monkeypatch.setattr(owner.runs._blocks, "publish", publish)
    # It says that it helps, and does not.
    await owner.runs._blocks.attend(run.run_id, "asleep", seconds=60.0)
    while not publish.await_count:
        owner.stepped.allow(8)
        await asyncio.sleep(0.02)
    owner.stepped.allow(ITEMS)
    assert_within_budget(fleet, await owner.end_of(run.run_id))
    assert len(owner.stepped.asked) == 800
    publish.assert_awaited_once()
    await owner.runs.stop()
    assert await block_numbers(store) == []


async def test_what_helpers_have_in_flight_is_cancelled_once_the_question_is_decided(
    store: SharedStore, book: Book, fleet: Any, make_item: Any
) -> None:
    # A tenth of what was begun may be undecided, so that from 640 items on there is a block for a helper.
    gate = dataclasses.replace(parsed_gate("shout>=0.6"), metric="exact_match")
    count, needed = 2000, 1200
    book.items = some_items(make_item, count, right=1.0)
    fleet.ledger.drawings.batch = count
    owner, helper = SteppedReplica(store, book, fleet), SteppedReplica(store, book, fleet)
    await owner.runs.start()
    run = await owner.runs.create(
        dataclasses.replace(REQUEST, concurrency=4 * BLOCK_ITEMS, seed=1, wish=GoalWish(gates=(gate,)))
    )
    await until(lambda: bool(owner.stepped.waiting))
    order = list(range(count))
    Random(1).shuffle(order)
    texts = [f"shout {position}" for position in order]
    # The last item that is needed, and all that are not, wait.
    decisive, late = texts[needed - 1], set(texts[needed:])
    for each in (owner, helper):
        each.stepped.held = {text: asyncio.Event() for text in texts[needed - 1 :]}
    owner.stepped.allow(700)
    await helper.runs.start()
    await until(lambda: len(fleet.ledger.rows) == 700)
    await helped(store, owner, helper)
    for each in (owner, helper):
        each.stepped.allow(count)
    await until(lambda: bool(late & helper.stepped.waiting))
    await until(lambda: len(fleet.ledger.rows) == needed - 1)
    for each in (owner, helper):
        each.stepped.held[decisive].set()
    ended = await owner.end_of(run.run_id)
    assert ended.stop_reason is StopReason.DECIDED
    await until(lambda: not helper.stepped.waiting)
    assert ended.progress[0].scored_count == len(fleet.ledger.rows) == needed
    for each in (owner, helper):
        await each.runs.stop()


async def test_a_decision_is_known_though_helpers_alone_bring_what_it_needs(
    store: SharedStore, book: Book, fleet: Any
) -> None:
    run, owner, helper = await started(store, book, fleet)
    before = (await owner.runs.get(run.run_id)).decisions[0].completed_count
    first = min(position for position in await first_draws(store))
    # All that the owner has asked before the block is answered, and nothing that comes behind it.
    owner.stepped.allow(BLOCK_ITEMS)
    helper.stepped.allow(BLOCK_ITEMS)
    completed = before

    async def completed_count() -> int:
        return (await owner.runs.get(run.run_id)).decisions[0].completed_count

    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while completed < first + BLOCK_ITEMS:
            completed = await completed_count()
            await asyncio.sleep(0.01)
    for each in (owner, helper):
        await each.runs.stop()
