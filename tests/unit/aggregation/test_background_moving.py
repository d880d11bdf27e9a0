"""The texts of an older ledger are moved while the service runs, whatever goes wrong on the way."""

import asyncio
from typing import Any

from services.aggregation.background_moving import background_moving
from services.aggregation.errors import LedgerUnavailableError
from tests.patience import LONGEST_WAIT_SECONDS


class FakeLedger:
    """Fails to move texts as a test lists, and then has moved them."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.moved = asyncio.Event()

    async def move_texts(self) -> int:
        if self.failures:
            raise self.failures.pop(0)
        self.moved.set()
        return 1


async def test_what_goes_wrong_is_tried_again() -> None:
    ledger: Any = FakeLedger(LedgerUnavailableError("away"), MemoryError())
    async with background_moving(ledger, again_seconds=0.0), asyncio.timeout(LONGEST_WAIT_SECONDS):
        await ledger.moved.wait()
    assert ledger.failures == []


async def test_it_ends_with_the_service() -> None:
    ledger: Any = FakeLedger(*[LedgerUnavailableError("away")] * 3)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), background_moving(ledger, again_seconds=3600.0):
        await asyncio.sleep(0)
    assert not ledger.moved.is_set()
