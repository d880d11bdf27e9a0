"""The ledger as whoever relies on what it acknowledged writes to it: one that has lost some of it is noticed."""

from collections.abc import AsyncIterator, Mapping, Sequence

from services.evaluation.errors import LeaseLostError
from services.evaluation.runs.outcome import ItemOutcome
from services.evaluation.runs.peers import AppendReceipt, ItemKey, Ledger, TaskFindings


class LedgerReplacedError(LeaseLostError):
    """Another database answers for the ledger, which may lack outcomes that were acknowledged before.

    What was known of the run and its shards is void, as for who has lost a lease; whoever owns the run begins anew with
    what the ledger has.
    """

    default_reason = "LEDGER_REPLACED"


class WatchedLedger:
    """A ledger that stays the same from its first answer on: appending nothing finds out whether it has.

    Args:
        ledger: that is written to.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._incarnation = ""

    def fenced(self, epoch: int) -> "WatchedLedger":
        """Write under a newer fence from now on."""
        self._ledger = self._ledger.fenced(epoch)
        return self

    async def append(self, run: str, outcomes: Sequence[ItemOutcome]) -> AppendReceipt:
        """Store outcomes durably, idempotently.

        Raises:
            LedgerReplacedError: perhaps not everything is there that was acknowledged before.
        """
        receipt = await self._ledger.append(run, outcomes)
        # One of an earlier release does not tell.
        if receipt.incarnation and receipt.incarnation != self._incarnation:
            if self._incarnation:
                raise LedgerReplacedError(f"the ledger may have lost outcomes of {run}", metadata={"run": run})
            self._incarnation = receipt.incarnation
        return receipt

    async def findings(self, run: str) -> Mapping[str, TaskFindings]:
        """What a run has found about each task."""
        return await self._ledger.findings(run)

    def keys(self, run: str) -> AsyncIterator[ItemKey]:
        """Every outcome that the ledger has of a run."""
        return self._ledger.keys(run)
