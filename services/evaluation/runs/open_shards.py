"""What a replica works on: the tasks of a run, and its shards that are at work here."""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.drawings import Population
from services.evaluation.runs.pipeline import ItemPipeline
from services.evaluation.runs.shards import Shard, ShardClaim
from services.runtime.errors import InternalError


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A task: its items in the run's order and, if they may be drawn, in that of the data, and their way."""

    pipeline: ItemPipeline
    items: Sequence[Item | InvalidItem]
    population: Population | None = None

    def item(self, shard: Shard, draw_index: int) -> Item | InvalidItem:
        """One item of a shard."""
        if not shard.positions:
            return self.items[draw_index]
        if self.population is None:
            raise InternalError(f"the items of task {shard.task} cannot be drawn")
        return self.population.item(shard.positions[draw_index - shard.first_draw_index])


@dataclass(slots=True)
class OpenShard:
    """A shard that is worked on here: what of it is asked next, and how many outcomes the ledger still lacks."""

    claim: ShardClaim
    next_index: int
    missing_count: int
    scored_count: int
    failed_count: int
    spent: Spend
    jobs: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def told(self) -> ShardClaim:
        """The claim with the counts as they are."""
        shard = dataclasses.replace(
            self.claim.shard, scored_count=self.scored_count, failed_count=self.failed_count, spent=self.spent
        )
        return dataclasses.replace(self.claim, shard=shard)
