"""A block that is handed out, without the run around it."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any
from unittest.mock import AsyncMock

from services.evaluation.runs.block_account import BlockAccount
from services.evaluation.runs.block_sharing import BlockSharing
from services.evaluation.runs.block_store import BlockStore, StoredBlocks
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.evaluation.runs.budget import Budget, BudgetKeeper, Spend
from services.evaluation.runs.drawings import Draw
from services.evaluation.runs.known_outcomes import KnownOutcomes
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.record import Run, RunState
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import ShardClaim
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.evaluation.runs.stored_runs import SharedStore


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
        # Somebody waits for blocks; who takes this one is up to the test.
        await self.blocks.attend("r", "waiting", seconds=600.0)
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
