"""One run whose items are drawn at several replicas: helpers take blocks, and nothing of the run's promises changes."""

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs import block_sharing, block_store, stored_board
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.block_account import BlockAccount
from services.evaluation.runs.block_sharing import BlockSharing
from services.evaluation.runs.block_store import BlockStore, HelperBoard, StoredBlocks
from services.evaluation.runs.blocks import BLOCK_ITEMS, part_of_others, wants_helpers
from services.evaluation.runs.budget import Budget, BudgetKeeper, Spend
from services.evaluation.runs.caller_budgets import CallerBudgets, CallerBudgetsSpec
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.drawings import Draw
from services.evaluation.runs.executor import RunExecutor, TaskItems
from services.evaluation.runs.fencing import FencedLedger
from services.evaluation.runs.gates import Goal, GoalWish, parsed_gate
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.ledger_writer import LedgerWriter
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import GeneratedText, GenerationOptions, Generator
from services.evaluation.runs.record import Run, RunRequest, RunState, StopReason
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import Shard, ShardClaim
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.stored_board import StoredBoard
from services.evaluation.runs.tables import RUN_HELPERS, RUN_SHARDS
from services.evaluation.tasks import Suite
from services.runtime.database import open_database, sqlite_url
from services.runtime.errors import UnavailableError
from services.runtime.usage import Usage
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.test_drawn_tasks import ListedItems, some_items
from tests.unit.evaluation.runs.test_sharing import MIGRATIONS, Book, Replica, SharedStore

ITEMS = 1000
CONCURRENCY = 2 * BLOCK_ITEMS
BUDGET = GoalWish(budget=Budget(items=800))
REQUEST = RunRequest(suite="demo", model="models/tiny", concurrency=CONCURRENCY, wish=BUDGET)


class DrawnBook(Book):
    """Its items may be drawn."""

    async def draw(self, suite: Suite, *, seed: int, limit: int | None) -> Sequence[TaskItems]:
        return [TaskItems(suite.tasks[0], self.items, self.data_digest, ListedItems(self.items))]


class SteppedGenerator:
    """Answers as many items as it was told to, but none that are held; the others wait.

    Attributes:
        waiting: texts that are asked and not answered.
        held: what lets an item go, by its text.
    """

    def __init__(self, generator: Any) -> None:
        self.held: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        self._generator: Generator = copy.copy(generator)
        self._generator.asked = self.asked
        self._steps = asyncio.Semaphore(0)
        self.waiting: set[str] = set()
        self.model_digest = generator.model_digest
        self.model_content = generator.model_content

    def allow(self, count: int) -> None:
        for _ in range(count):
            self._steps.release()

    async def generate(self, model: str, prompt: Any, options: GenerationOptions) -> Sequence[GeneratedText]:
        self.waiting.add(prompt.text)
        try:
            await (self.held[prompt.text].wait() if prompt.text in self.held else self._steps.acquire())
        finally:
            self.waiting.discard(prompt.text)
        return await self._generator.generate(model, prompt, options)


class SteppedReplica(Replica):
    """A replica with a generator that answers step by step."""

    def __init__(self, store: RunStore, book: Book, fleet: Any, *arguments: Any) -> None:
        self.stepped = SteppedGenerator(fleet.generator)
        peers = dataclasses.replace(fleet.peers, generator=self.stepped)
        super().__init__(store, book, fleet, *arguments)
        self.runs._peers = self.runs._helper._peers = peers


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody look often, so that tests need not wait."""
    monkeypatch.setattr(StoredBlocks, "poll_seconds", 0.02)
    monkeypatch.setattr(StoredBlocks, "renewal_seconds", 0.05)
    monkeypatch.setattr(stored_board, "_RENEWAL_SECONDS", 0.2)
    # And nobody be taken for absent because the machine is slow.
    monkeypatch.setattr(block_store, "_WAITING_RENEWALS", 300)
    monkeypatch.setattr(block_sharing, "_UNCLAIMED_SECONDS", 60.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SharedStore]:
    engine = await open_database(sqlite_url(tmp_path / "shared.sqlite"), migrations=MIGRATIONS, durable=False)
    yield SharedStore(engine)
    await engine.dispose()


@pytest.fixture
def book(make_task: Any, make_item: Any, fleet: Any) -> Book:
    fleet.ledger.drawings.batch = ITEMS
    return DrawnBook(Suite("demo", "a suite", (make_task(),)), some_items(make_item, ITEMS, right=0.6))


async def started(
    store: SharedStore,
    book: Book,
    fleet: Any,
    request: RunRequest = REQUEST,
    allowances: Allowances | None = None,
) -> tuple[Run, SteppedReplica, SteppedReplica]:
    """Start a run at an owner, and wait until a helper has the items of a block in flight."""
    owner, helper = SteppedReplica(store, book, fleet), SteppedReplica(store, book, fleet)
    owner.runs._allowances = owner.runs._maker._allowances = allowances
    await owner.runs.start()
    run = await owner.runs.create(request)
    await until(lambda: bool(owner.stepped.waiting))
    # Nobody helps before the list of runs tells that there is enough left.
    owner.stepped.allow(8)
    await until(lambda: len(fleet.ledger.rows) == 8)
    await helper.runs.start()
    await helped(store, owner, helper)
    await until(lambda: len(helper.stepped.waiting) == BLOCK_ITEMS)
    return run, owner, helper


async def helped(store: SharedStore, owner: SteppedReplica, helper: SteppedReplica) -> None:
    """Wait until a helper has items in flight."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not helper.stepped.waiting:
            if await helper_count(store):
                # Places come to be free for a block only as items end.
                owner.stepped.allow(8)
            await asyncio.sleep(0.1)


async def end_leases(store: SharedStore, replica: Replica) -> None:
    """Let time pass for what a replica holds: nobody has to wait, or is taken for dead because the machine is slow."""
    name = replica.runs._leases.owner
    await store.give_back(name)
    await ShardStore(store.engine).give_back(name)


async def helper_count(store: SharedStore) -> int:
    async def read(connection: AsyncConnection) -> int:
        return len((await connection.execute(select(RUN_HELPERS))).all())

    return await store.transact(read)


async def block_numbers(store: SharedStore) -> list[int]:
    async def read(connection: AsyncConnection) -> list[int]:
        query = select(RUN_SHARDS.c.number).where(RUN_SHARDS.c.positions.is_not(None))
        return list((await connection.execute(query)).scalars())

    return await store.transact(read)


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


async def test_a_helper_that_stops_gives_its_block_back_at_once(store: SharedStore, book: Book, fleet: Any) -> None:
    run, owner, helper = await started(store, book, fleet)
    await helper.runs.stop()
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


async def until_async(read: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not await read():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)


async def first_draws(store: SharedStore) -> list[int]:
    async def read(connection: AsyncConnection) -> list[int]:
        query = select(RUN_SHARDS.c.first_draw_index).where(RUN_SHARDS.c.positions.is_not(None))
        return list((await connection.execute(query)).scalars())

    return await store.transact(read)


@pytest.mark.parametrize("seed", range(4))
async def test_a_budget_holds_over_replicas_as_it_holds_over_one(
    store: SharedStore, book: Book, fleet: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng, dearest = Random(seed), 400
    generate = SteppedGenerator.generate

    async def costly(self: SteppedGenerator, model: str, prompt: Any, options: Any) -> Sequence[GeneratedText]:
        (answer,) = await generate(self, model, prompt, options)
        await asyncio.sleep(0.01 * rng.random())
        tokens = rng.randint(1, 20) * (20 if rng.random() < 0.1 else 1)
        return [dataclasses.replace(answer, usage=Usage(computed_completion_tokens=tokens))]

    monkeypatch.setattr(SteppedGenerator, "generate", costly)
    limit = rng.randint(14_000, 18_000)
    request = dataclasses.replace(REQUEST, wish=GoalWish(budget=Budget(tokens=limit)))
    run, owner, helper = await started(store, book, fleet, request=request)
    for each in (owner, helper):
        each.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    costs = [row.usage.computed_completion_tokens for row in fleet.ledger.rows.values()]
    assert ended.stop_reason is StopReason.BUDGET_EXHAUSTED
    assert limit - dearest - 50 < sum(costs) <= limit + CONCURRENCY * dearest
    assert ended.spent.tokens == pytest.approx(sum(costs))
    assert helper.stepped.asked
    for each in (owner, helper):
        await each.runs.stop()


async def test_the_day_of_a_caller_holds_over_owner_and_helpers(store: SharedStore, book: Book, fleet: Any) -> None:
    budgets = CallerBudgets(CallerBudgetsSpec.model_validate({"default": {"items": 790}}))
    allowances = Allowances(budgets, AccountStore(store.engine, "owner"))
    await allowances.start()
    request = dataclasses.replace(REQUEST, wish=GoalWish())
    run, owner, helper = await started(store, book, fleet, request=request, allowances=allowances)
    for each in (owner, helper):
        each.stepped.allow(ITEMS)
    ended = await owner.end_of(run.run_id)
    assert ended.stop_reason is StopReason.CALLER_BUDGET_EXHAUSTED
    # Whole blocks as long as they fit, then item by item.
    assert sorted(row.draw_index for row in fleet.ledger.rows.values()) == list(range(790))
    assert len(helper.stepped.asked) >= BLOCK_ITEMS
    for each in (owner, helper):
        await each.runs.stop()
    await allowances.stop()
    today = (await allowances.account("anonymous")).today
    assert (today.spent.items, today.reserved.items) == (790, 0)
    assert today.spent.engine_seconds == sum(row.usage.engine_seconds for row in fleet.ledger.rows.values())


class HandedOut:
    """A block that an owner hands out, with helpers that are played by hand."""

    def __init__(self, store: SharedStore, fleet: Any, sample_count: int = 1) -> None:
        self.store, self.ledger = store, fleet.ledger
        self.shards, self.blocks = ShardStore(store.engine), BlockStore(store.engine)
        self.told: list[tuple[int, Spend | None]] = []
        self.counts: list[tuple[str, int, int]] = []
        self.known = KnownOutcomes({"shout": sample_count})
        self.sample_count = sample_count
        keeper = BudgetKeeper(Budget(items=100), spent=Spend(), now=lambda: 0.0)
        self.account = BlockAccount(keeper, Spend(BLOCK_ITEMS), BLOCK_ITEMS, None)
        self.draws = [Draw(100 + index, f"item {index}", index) for index in range(BLOCK_ITEMS)]

    async def begin(self) -> "asyncio.Task[Sequence[Draw]]":
        """Hand the block out; the task ends once nobody works on it."""
        run = Run("r", "demo", "s", "models/tiny", "m", seed=1, concurrency=64, create_time=1.0, state=RunState.RUNNING)
        await self.store.add(run)
        claim = await self.store.claim("owner", lease_seconds=60.0)
        assert claim is not None
        board = StoredBlocks(self.blocks, self.shards, "r", claim.epoch)
        drawings = AsyncMock()
        drawings.draw.return_value.decision.task = "shout"
        self.sharing = BlockSharing(
            "runs/r", board, self.ledger, drawings, self.known,
            on_counts=lambda *counts: self.counts.append(counts), on_decision=lambda _: None, patience_seconds=1.0,
        )  # fmt: skip
        self.watching = asyncio.create_task(self.sharing.watch())
        sharing = asyncio.create_task(
            self.sharing.share(
                "shout", self.draws, self.sample_count, lambda *told: self.told.append(told), self.account.note_taken
            )
        )
        sharing.add_done_callback(self.stop_watching)
        return sharing

    def stop_watching(self, _: "asyncio.Future[Any]") -> None:
        self.watching.cancel()

    async def taken(self, helper: str, lease_seconds: float = 60.0) -> ShardClaim:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while (claim := await self.shards.claim("r", helper, lease_seconds=lease_seconds)) is None:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        return claim

    async def brought(self, *draw_indices: int) -> None:
        """Let the ledger have some items, of which nobody has told the cost."""
        await self.ledger.append(
            "runs/r",
            [
                ItemOutcome("shout", f"item {index}", sample, index, metrics={"exact_match": 1.0}, failure=None)
                for index in draw_indices
                for sample in range(self.sample_count)
            ],
        )

    async def tell(self, helper: str, claim: ShardClaim, **told: Any) -> None:
        shard = dataclasses.replace(claim.shard, **told)
        done = shard.scored_count == BLOCK_ITEMS * self.sample_count
        claim = dataclasses.replace(claim, shard=shard)
        await self.shards.keep("r", helper, claim, lease_seconds=None if done else 60.0)

    @property
    def cost(self) -> tuple[int, Spend, int]:
        """How many items are done, what was told of their cost, and of how many nothing was."""
        priced = [spent for _, spent in self.told if spent is not None]
        return (
            sum(count for count, _ in self.told),
            dataclasses.replace(sum(priced, Spend()), items=0),
            sum(count for count, spent in self.told if spent is None),
        )


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
    # The owner looks too late to take it back.
    monkeypatch.setattr(StoredBlocks, "poll_seconds", 0.5)
    sharing = await handed.begin()
    await handed.taken("first")
    await handed.brought(*range(10))
    await handed.shards.give_back("first")
    claim = await handed.taken("second")
    await handed.tell("second", claim, scored_count=BLOCK_ITEMS, spent=Spend(22, 220))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        assert await sharing == ()
    assert handed.cost == (BLOCK_ITEMS, Spend(0, 220), 10)
    assert all(handed.known.has_all("shout", draw.draw_index) for draw in handed.draws)


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


@given(st.integers(0, 4096), st.integers(0, 64))
def test_the_owner_keeps_as_many_places_as_each_helper_gets(place_count: int, helper_count: int) -> None:
    others = part_of_others(place_count, helper_count)
    own = place_count - others
    assert others % BLOCK_ITEMS == 0
    assert own * (helper_count + 1) >= place_count
    assert own < place_count / (helper_count + 1) + BLOCK_ITEMS


@given(
    st.lists(st.tuples(st.integers(1, 8), st.none() | st.integers(0, 500)), max_size=8), st.booleans(), st.booleans()
)
def test_a_block_leaves_nothing_reserved_however_it_ends(
    parts: list[tuple[int, int | None]], is_cancelled: bool, was_taken: bool
) -> None:
    keeper = BudgetKeeper(Budget(tokens=10**6), spent=Spend(), now=lambda: 0.0)
    keeper.learn("t", Spend(1, 10))
    reserved = keeper.reserve_block("t", BLOCK_ITEMS)
    assert reserved == Spend(BLOCK_ITEMS, 10 * BLOCK_ITEMS)
    account, done, tokens = BlockAccount(keeper, reserved, BLOCK_ITEMS, None), 0, 0
    for count, cost in parts:
        if done + count <= BLOCK_ITEMS:
            account.settle(count, None if cost is None else Spend(count, cost))
            done, tokens = done + count, tokens + (10 * count if cost is None else cost)
    assert account.open_count == BLOCK_ITEMS - done
    if was_taken:
        account.note_taken()
    if is_cancelled:
        account.cancel()
    if is_cancelled and was_taken:
        done, tokens = BLOCK_ITEMS, tokens + 10 * (BLOCK_ITEMS - done)
    else:
        account.give_back()
    assert keeper.spent.items == done
    assert keeper.spent.tokens == pytest.approx(tokens)
    room = 10**6 - round(keeper.spent.tokens)
    assert keeper.reserve_block("t", room // 10 + 1) is None
    assert keeper.reserve_block("t", room // 10 - 1) is not None


def test_no_block_is_made_before_anybody_knows_what_an_item_costs() -> None:
    keeper = BudgetKeeper(Budget(tokens=1000), spent=Spend(), now=lambda: 0.0)
    assert keeper.reserve_block("t", BLOCK_ITEMS) is None
    assert BudgetKeeper(Budget(items=1000), spent=Spend(), now=lambda: 0.0).reserve_block("t", 32) == Spend(32)
    late = BudgetKeeper(Budget(wall_seconds=1.0), spent=Spend(), now=lambda: 2.0)
    assert late.reserve_block("t", BLOCK_ITEMS) is None


@pytest.mark.parametrize(
    ("changes", "decided", "wants"),
    [
        ({}, {}, True),
        ({"concurrency": 63}, {}, False),
        ({"state": RunState.PENDING}, {}, False),
        ({"goal": Goal(budget=Budget(items=600))}, {}, False),
        ({}, {"expected_remaining_count": 100}, False),
        ({}, {"completed_count": 900}, False),
        ({}, {"is_decided": True}, False),
    ],
)
def test_helpers_come_only_where_enough_is_left(changes: dict[str, Any], decided: dict[str, Any], wants: bool) -> None:
    values: dict[str, Any] = {
        "task": "t", "metric": "m", "questions": (), "is_decided": False, "value": None, "lower": 0.0, "upper": 1.0,
        "confidence_level": 0.95, "method": "x", "completed_count": 10, "drawn_count": 100, "item_count": 1000,
        "saved_count": 900, **decided,
    }  # fmt: skip
    run = Run("r", "demo", "s", "models/tiny", "m", seed=1, concurrency=64, create_time=1.0, state=RunState.RUNNING)
    run = dataclasses.replace(run, decisions=(TaskDecision(**values),), **changes)
    assert wants_helpers(run) is wants
