"""The ledger as a replica writes to it that works on a run together with others."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import AppendReceipt, ItemKey, Ledger, TaskFindings


class FencedLedger:
    """A run's ledger under a fence that others may move on.

    The fence grows whenever somebody is to be shut out. Everybody's next write is refused then; who may go on reads the
    fence anew, and who may not stops here.

    Args:
        ledger: of all runs.
        fence: as it was last read.
        confirm: returns the fence as it is now; raises LeaseLostError for who may not go on.
        may_write: whether an outcome may go to the ledger under that fence.
    """

    def __init__(
        self,
        ledger: Ledger,
        fence: int,
        confirm: Callable[[], Awaitable[int]],
        may_write: Callable[[ItemOutcome], bool],
    ) -> None:
        self._plain = ledger
        self._confirm = confirm
        self._may_write = may_write
        self._fence = fence
        self._ledger = ledger.fenced(fence)

    def fenced(self, epoch: int) -> "FencedLedger":
        """Write under a newer fence from now on."""
        if epoch > self._fence:
            self._fence = epoch
            self._ledger = self._plain.fenced(epoch)
        return self

    async def append(self, run: str, outcomes: Sequence[ItemOutcome]) -> AppendReceipt:
        """Store outcomes durably, idempotently.

        Raises:
            LeaseLostError: this replica may not write any more.
        """
        while True:
            tried = self._fence
            # Looked at anew for each fence: what was withdrawn meanwhile may have been counted already.
            dropped = [each for each in outcomes if not self._may_write(each)]
            try:
                receipt = await self._ledger.append(run, _without(outcomes, dropped))
                return dataclasses.replace(receipt, dropped=dropped)
            except LeaseLostError:
                self.fenced(await self._confirm())
                if self._fence <= tried:
                    raise

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        """What a run has found about each task."""
        return await self._ledger.findings(run)

    def keys(self, run: str) -> AsyncIterator[ItemKey]:
        """Every outcome that the ledger has of a run."""
        return self._ledger.keys(run)


def _without(outcomes: Sequence[ItemOutcome], dropped: Sequence[ItemOutcome]) -> Sequence[ItemOutcome]:
    gone = {id(each) for each in dropped}
    return [each for each in outcomes if id(each) not in gone] if gone else outcomes
