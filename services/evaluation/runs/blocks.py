"""Blocks: shards of drawn items that the owner of a run hands to helpers while the run goes on.

All items of a block count as in flight from the moment at which the owner publishes it: they take places of the run's
concurrency, they are among what an early decision may waste, and their cost is reserved. So all that holds for a run
at one replica holds for one at several. Which items are drawn, and in which order, the owner alone decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.record import Run, RunState
from services.evaluation.runs.shards import Shard

BLOCK_ITEMS: Final = 32
"""Items of a block. With a model that answers at once, its statements cost half as much CPU as work on its items."""
LEAST_PLACES: Final = 2 * BLOCK_ITEMS
"""A run with fewer items in flight has none to give away: the owner keeps a block for itself."""
LEAST_LEFT: Final = 10 * LEAST_PLACES
"""A helper that comes for fewer items comes too late. And a question has a tenth of what it needs in flight."""


@dataclass(frozen=True, slots=True)
class PublishedBlock:
    """A block as it stands.

    Attributes:
        shard: what it is and what was told of it.
        epoch: how often it was taken.
        is_free: it is not done and nobody works on it.
    """

    shard: Shard
    epoch: int
    is_free: bool


@dataclass(frozen=True, slots=True)
class BlocksLook:
    """The blocks of a run, by number, and how many helpers wait for some or work on them."""

    blocks: Mapping[int, PublishedBlock]
    helper_count: int


class BlockBoard(Protocol):
    """The blocks of one run as its owner sees them.

    If the run is somebody else's, ``publish`` and ``shut_out`` raise LeaseLostError, and there is nothing to withdraw.
    """

    @property
    def poll_seconds(self) -> float:
        """How long to wait between two looks while there are blocks."""
        ...

    @property
    def renewal_seconds(self) -> float:
        """How long to wait between two looks while there are none."""
        ...

    def new_number(self) -> int:
        """Return a number that no shard of the run has had."""
        ...

    async def publish(self, block: Shard) -> None:
        """Let helpers take a block; the same again changes nothing."""
        ...

    async def look(self) -> BlocksLook:
        """All blocks as they stand."""
        ...

    async def withdraw(self, number: int, *, if_free: bool = False) -> PublishedBlock | None:
        """Remove a block, and return it as it stood; None: there is none, or ``if_free`` and somebody works on it."""
        ...

    async def withdraw_all(self) -> None:
        """Remove all blocks of the run, whoever has published them."""
        ...

    async def shut_out(self) -> int:
        """Move the run's fence on, and return it; see ``RunStore.fence``."""
        ...


def part_of_others(place_count: int, helper_count: int) -> int:
    """How many of some places the owner leaves to helpers: as many to each as it keeps, in whole blocks."""
    return place_count * helper_count // (helper_count + 1) // BLOCK_ITEMS * BLOCK_ITEMS


def wants_helpers(run: Run) -> bool:
    """Whether the owner of a run has blocks for helpers, as far as the list of runs tells."""
    if run.state is not RunState.RUNNING or run.concurrency < LEAST_PLACES:
        return False
    return any(_items_left(run, each) >= LEAST_LEFT for each in run.decisions if not each.is_decided)


def most_helpers(run: Run) -> int:
    """How many helpers can have a block of a run at the same time."""
    return run.concurrency // BLOCK_ITEMS - 1


def _items_left(run: Run, decision: TaskDecision) -> float:
    left: list[float] = [decision.item_count - decision.completed_count]
    if decision.expected_remaining_count is not None:
        left.append(decision.expected_remaining_count)
    if run.goal.budget.items is not None:
        left.append(run.goal.budget.items - run.spent.items)
    return min(left)


def block_of(number: int, task: str, draws: Sequence[tuple[int, int]]) -> Shard:
    """Make a block of draws that follow each other, each as its index and its item's position in the data."""
    return Shard(number, task, draws[0][0], len(draws), positions=tuple(position for _, position in draws))
