"""Shards: ranges of a run's order of items, of which any replica may take any under a lease.

A run has one owner, which plans the shards, works on them like everybody else, and ends the run. Replicas that have
nothing else to do take shards too, lowest first, so that the order of draws is kept across them.

Shards of items that the aggregation service draws are made while the run goes on: see ``blocks``.
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.evaluation.runs.budget import Spend
from services.evaluation.runs.watched_ledger import LedgerReplacedError

_FEWEST_ITEMS = 16
_MOST_ITEMS = 512
_SHARDS_A_TASK = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """A range of the order of a task's items.

    Attributes:
        number: place among the run's shards.
        task: whose items.
        first_draw_index: place of its first item in the order.
        draw_count: how many items follow each other.
        is_done: whether each of them has its outcomes in the ledger.
        scored_count, failed_count: outcomes that the ledger has.
        positions: place of each item in the order of the data, where the aggregation service draws them; empty: the
            run's own order says which they are.
        spent: what those outcomes have cost that were told by whoever asked the items.
    """

    number: int
    task: str
    first_draw_index: int
    draw_count: int
    is_done: bool = False
    scored_count: int = 0
    failed_count: int = 0
    positions: tuple[int, ...] = ()
    spent: Spend = field(default_factory=Spend)

    @property
    def draw_indices(self) -> range:
        """The places of its items in the order."""
        return range(self.first_draw_index, self.first_draw_index + self.draw_count)


@dataclass(frozen=True, slots=True)
class ShardClaim:
    """A shard that was taken to be worked on.

    Attributes:
        shard: as it was stored.
        epoch: of its lease; above 1, somebody has worked on it before.
        worker_count: replicas that work on the run, this one included.
    """

    shard: Shard
    epoch: int
    worker_count: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """What came of keeping shards.

    Attributes:
        worker_count: replicas that work on the run, this one included.
        withdrawn: numbers of all shards until now that were taken here and that nobody needs any more.
    """

    worker_count: int
    withdrawn: frozenset[int] = frozenset()


class ShardBoard(Protocol):
    """The shards of one run as one replica sees them."""

    @property
    def poll_seconds(self) -> float:
        """How long to wait before looking again for a shard."""
        ...

    @property
    def renewal_seconds(self) -> float:
        """How long to wait before keeping shards again."""
        ...

    async def plan(self, shards: Sequence[Shard]) -> None:
        """Add those that are not there yet."""
        ...

    async def claim(self) -> ShardClaim | None:
        """Take the first that nobody works on, or None; raises LeaseLostError if the run has ended."""
        ...

    async def renew(self, claims: Sequence[ShardClaim]) -> Renewal:
        """Keep those that were taken, whose counts are as told.

        Raises:
            LeaseLostError: one of them is somebody else's now.
        """
        ...

    async def settle(self, claim: ShardClaim) -> None:
        """Note that all items of a shard have their outcomes; its counts are as told. Raises LeaseLostError."""
        ...

    async def give_back(self) -> None:
        """Let others take at once what this replica has."""
        ...

    async def standing(self) -> Sequence[Shard]:
        """All of the run's shards as they stand."""
        ...

    async def shut_out(self) -> int:
        """Move the run's fence on, and return it; see ``RunStore.fence``."""
        ...


class OwnBoard:
    """The shards of a run that one process works on alone, in memory."""

    poll_seconds = 0.1
    renewal_seconds = 1.0

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}
        self._free: deque[int] = deque()
        self._taken: set[int] = set()

    async def plan(self, shards: Sequence[Shard]) -> None:
        """Add those that are not there yet."""
        new = [each for each in shards if each.number not in self._shards]
        self._shards |= {each.number: each for each in new}
        self._free.extend(each.number for each in new if not each.is_done)

    async def claim(self) -> ShardClaim | None:
        """Take the first that is free, or None."""
        if not self._free:
            return None
        number = self._free.popleft()
        self._taken.add(number)
        return ShardClaim(self._shards[number], 1, 1)

    async def renew(self, claims: Sequence[ShardClaim]) -> Renewal:
        """Nobody else could have taken them."""
        return Renewal(worker_count=1)

    async def settle(self, claim: ShardClaim) -> None:
        """Note that a shard is done."""
        self._taken.discard(claim.shard.number)
        self._shards[claim.shard.number] = dataclasses.replace(claim.shard, is_done=True)

    async def give_back(self) -> None:
        """Make free what was taken."""
        self._free.extendleft(sorted(self._taken, reverse=True))
        self._taken.clear()

    async def standing(self) -> Sequence[Shard]:
        """All shards."""
        return list(self._shards.values())

    async def shut_out(self) -> int:
        """Nobody else writes."""
        return 0


def shard_size(item_count: int) -> int:
    """How many items a shard of a task has: the same whoever plans the run."""
    return min(_MOST_ITEMS, max(_FEWEST_ITEMS, -(-item_count // _SHARDS_A_TASK)))


class ShardPlan:
    """The shards of a run's tasks, and what the ledger has of each before anybody begins.

    Args:
        tasks: name, number of items and outcomes an item has, in the order in which they are worked on.
    """

    def __init__(self, tasks: Iterable[tuple[str, int, int]]) -> None:
        self._tasks = tuple(tasks)
        self._sizes = {name: shard_size(item_count) for name, item_count, _ in self._tasks}
        self._found: Counter[tuple[str, int, bool]] = Counter()

    def note(self, task: str, draw_index: int, *, failed: bool) -> None:
        """Count an outcome that the ledger has; one of another task counts for nothing."""
        if (size := self._sizes.get(task)) is not None:
            self._found[task, draw_index // size, failed] += 1

    def check(self, standing: Iterable[Shard], run: str) -> None:
        """Find out whether the ledger has all of those shards that were done before it was read.

        Raises:
            LedgerReplacedError: it has lost outcomes.
        """
        lacking = {(each.task, each.first_draw_index) for each in self.shards() if not each.is_done}
        for each in standing:
            if each.is_done and (each.task, each.first_draw_index) in lacking:
                raise LedgerReplacedError(f"the ledger has lost outcomes of {run}", metadata={"run": run})

    def shards(self) -> Sequence[Shard]:
        """All of them, in order."""
        shards: list[Shard] = []
        for task, item_count, sample_count in self._tasks:
            size = self._sizes[task]
            for place in range(-(-item_count // size)):
                count = min(size, item_count - place * size)
                scored, failed = self._found[task, place, False], self._found[task, place, True]
                is_done = scored + failed >= count * sample_count
                shards.append(Shard(len(shards), task, place * size, count, is_done, scored, failed))
        return shards
