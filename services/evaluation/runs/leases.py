"""Who works on a run: one replica at a time, for as long as it says every few seconds that it still does.

A lease ends by itself when its holder says nothing any more; then another replica takes the run, under a higher epoch.
Whatever the old holder writes afterwards, in the list of runs or in the ledger, carries the old epoch and is refused
(fencing: Kleppmann, "How to do distributed locking", 2016).
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.runs.record import Run
from services.evaluation.runs.store import Claim, RunStore

_LOG = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long leases hold and how often they are looked at, all in seconds.

    Attributes:
        lease_seconds: after so long without a word from its holder a run is taken over.
        renewal_seconds: between two words of a holder.
        poll_seconds: between two looks for runs to take, and at runs that others work on.
    """

    lease_seconds: float = 8.0
    renewal_seconds: float = 2.0
    poll_seconds: float = 1.0


def process_name() -> str:
    """A name that no other process has, not even this one after a restart."""
    return f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(4)}"


class RunLeases:
    """The leases of this replica.

    Attributes:
        times: how long they hold.
        owner: name that no other replica has, not even this one after a restart.
    """

    def __init__(self, store: RunStore, times: LeaseTimes, *, owner: str | None = None) -> None:
        self._store = store
        self.times = times
        self.owner = owner or process_name()

    async def start(self) -> None:
        """Take nothing for held that cannot be: a file is used by one process, and this one holds nothing yet."""
        if not self._store.is_shared:
            await self._store.give_back()

    async def stop(self) -> None:
        """Let others go on at once with what this replica holds."""
        await self._store.give_back(self.owner)

    async def claim(self) -> Claim | None:
        """Take the run whose turn it is, or None."""
        claim = await self._store.claim(self.owner, lease_seconds=self.times.lease_seconds)
        if claim is not None:
            _LOG.info("run_taken", run=claim.run.name, epoch=claim.epoch, owner=self.owner)
        return claim

    async def hold(self, claim: Claim, work: Coroutine[Any, Any, None], now: Callable[[], Run]) -> None:
        """Do the work as long as the lease is ours, storing the run as it stands with every word.

        Args:
            claim: the run.
            work: is cancelled when the lease is lost.
            now: returns the run as it stands.

        Raises:
            LeaseLostError: the run is somebody else's now, or has ended; the work has stopped.
        """
        working = asyncio.create_task(work)
        renewing = asyncio.create_task(self._renew(claim, now))
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            else:
                renewing.result()
        finally:
            working.cancel()
            renewing.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renew(self, claim: Claim, now: Callable[[], Run]) -> None:
        """Renew the lease until it is lost.

        A list of runs that is away loses nothing: nobody else can take the run meanwhile, or what we write is refused.
        """
        while True:
            await asyncio.sleep(self.times.renewal_seconds)
            try:
                await self._store.save(now(), claim.epoch, lease_seconds=self.times.lease_seconds)
            except RunsUnavailableError as error:
                _LOG.warning("lease_not_renewed", run=claim.run.name, message=error.message)
            except LeaseLostError:
                _LOG.warning("lease_lost", run=claim.run.name, epoch=claim.epoch, owner=self.owner)
                raise
