"""Replicas whose items are answered step by step, so that a test knows which of them are in flight."""

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.gates import GoalWish
from services.evaluation.runs.peers import GeneratedText, GenerationOptions, Generator
from services.evaluation.runs.record import Run, RunRequest
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.tables import RUN_HELPERS, RUN_SHARDS
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.evaluation.runs.sharing.replicas import Replica
from tests.unit.evaluation.runs.stored_runs import SharedStore
from tests.unit.evaluation.runs.suite_books import Book

ITEMS = 1000
CONCURRENCY = 2 * BLOCK_ITEMS
BUDGET = GoalWish(budget=Budget(items=800))
REQUEST = RunRequest(suite="demo", model="models/tiny", concurrency=CONCURRENCY, wish=BUDGET)


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


async def first_draws(store: SharedStore) -> list[int]:
    async def read(connection: AsyncConnection) -> list[int]:
        query = select(RUN_SHARDS.c.first_draw_index).where(RUN_SHARDS.c.positions.is_not(None))
        return list((await connection.execute(query)).scalars())

    return await store.transact(read)


async def until_async(read: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not await read():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
