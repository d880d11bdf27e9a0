"""The shards of one run in the database, as one replica sees them."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.shard_store import ShardStore
from services.evaluation.runs.shards import Renewal, Shard, ShardClaim

_RENEWAL_SECONDS = 1.0


class StoredBoard:
    """The shards of one run in the database, as one replica sees them: a ``ShardBoard``.

    Blocks of drawn items are none of them here, since their owner takes them back and asks them by itself.

    Args:
        store: of all shards.
        run_id: whose.
        owner: name of this replica.
        lease_seconds: after so long without a word from it a replica loses its shards.
        read_fence: returns the run's fence; raises LeaseLostError if the run is not to be worked on here any more.
    """

    _takes_blocks: ClassVar[bool] = False

    def __init__(
        self,
        store: ShardStore,
        run_id: str,
        owner: str,
        *,
        lease_seconds: float,
        read_fence: Callable[[], Awaitable[int]],
    ) -> None:
        self.renewal_seconds = min(_RENEWAL_SECONDS, lease_seconds / 4)
        self.poll_seconds = self.renewal_seconds / 4
        self._read_fence = read_fence
        self._held: dict[int, ShardClaim] = {}
        self._withdrawn: dict[int, Shard] = {}
        self._store = store
        self._run_id = run_id
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._renew_time = time.monotonic()

    async def plan(self, shards: Sequence[Shard]) -> None:
        """Add those that are not there yet."""
        await self._store.add(self._run_id, shards)

    async def claim(self) -> ShardClaim | None:
        """Take the first that nobody works on, or None."""
        if self._held and time.monotonic() - self._renew_time > self._lease_seconds / 2:
            # The database was away: what is held here comes to be free for everybody, this replica included.
            await self.renew(list(self._held.values()))
        claim = await self._store.claim(
            self._run_id, self._owner, lease_seconds=self._lease_seconds, takes_blocks=self._takes_blocks
        )
        if claim is not None:
            self._held[claim.shard.number] = claim
            self._withdrawn.pop(claim.shard.number, None)
        return claim

    async def renew(self, claims: Sequence[ShardClaim]) -> Renewal:
        """Keep those that were taken."""
        began = time.monotonic()
        for claim in claims:
            if not self._holds(claim):
                continue
            try:
                await self._store.keep(self._run_id, self._owner, claim, lease_seconds=self._lease_seconds)
            except LeaseLostError:
                # It may have been settled, or taken anew, while the statement was on its way.
                if self._holds(claim):
                    await self._give_up(claim)
            if self._holds(claim):
                self._held[claim.shard.number] = claim
        self._renew_time = began
        return Renewal(await self._store.worker_count(self._run_id, self._owner), frozenset(self._withdrawn))

    async def _give_up(self, claim: ShardClaim) -> None:
        """Hold a shard no more that was withdrawn; raises LeaseLostError if it was lost to somebody else."""
        number = claim.shard.number
        if not await self._store.is_withdrawn(self._run_id, number):
            raise LeaseLostError(
                f"runs/{self._run_id} has ended, or shard {number} is worked on by another replica",
                metadata={"run": f"runs/{self._run_id}", "shard": str(number), "epoch": str(claim.epoch)},
            )
        self._held.pop(number, None)
        self._withdrawn[number] = claim.shard

    def may_write(self, outcome: ItemOutcome) -> bool:
        """Whether somebody may still wait for an outcome: not of a shard that was withdrawn, unless it came again."""
        return any(_has(each.shard, outcome) for each in self._held.values()) or not any(
            _has(each, outcome) for each in self._withdrawn.values()
        )

    def _holds(self, claim: ShardClaim) -> bool:
        held = self._held.get(claim.shard.number)
        return held is not None and held.epoch == claim.epoch

    async def settle(self, claim: ShardClaim) -> None:
        """Note that a shard is done."""
        # From here on nothing is written for it, so that nobody has to look whether it is still held.
        self._held.pop(claim.shard.number, None)
        try:
            await self._store.keep(self._run_id, self._owner, claim, lease_seconds=None)
        except LeaseLostError:
            await self._give_up(claim)

    async def confirm(self) -> int:
        """Return the run's fence for who still has all that was taken here; raises LeaseLostError for who has not."""
        # Read first: a fence that is moved on after the look at the shards shuts this replica out.
        fence = await self._read_fence()
        known = set(self._withdrawn)
        renewal = await self.renew(list(self._held.values()))
        if found := renewal.withdrawn - known:
            raise LeaseLostError(f"shards {sorted(found)} of runs/{self._run_id} were withdrawn")
        return fence

    async def give_back(self) -> None:
        """Let others take at once what this replica has."""
        await self._store.give_back(self._owner, self._run_id)

    async def standing(self) -> Sequence[Shard]:
        """All of the run's shards."""
        shards = await self._store.all(self._run_id)
        return [each for each in shards if self._takes_blocks or not each.positions]

    async def shut_out(self) -> int:
        """Move the run's fence on."""
        fence = await self._store.shut_out(self._run_id)
        # Who moves the fence on is told it, and so has to learn afterwards from what it may itself be shut out.
        await self.renew(list(self._held.values()))
        return fence


def _has(shard: Shard, outcome: ItemOutcome) -> bool:
    return shard.task == outcome.task and outcome.draw_index in shard.draw_indices
