"""Prunes a ledger again and again while the service runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from services.aggregation.errors import LedgerUnavailableError, PruneInProgressError, TextsMovingError
from services.aggregation.ledger import ResultLedger
from services.aggregation.retention import PrunePolicy

FIRST_AFTER_SECONDS: Final = 600.0
"""Runs that go on after a restart have said so by then."""
EVERY_SECONDS: Final = 6 * 3600.0


@asynccontextmanager
async def regular_pruning(
    ledger: ResultLedger,
    policy: PrunePolicy | None,
    *,
    first_after_seconds: float = FIRST_AFTER_SECONDS,
    every_seconds: float = EVERY_SECONDS,
) -> AsyncIterator[None]:
    """Prune in the background for the length of the ``with`` block; without a policy nothing is pruned."""
    if policy is None:
        yield
        return
    task = asyncio.create_task(_prune(ledger, policy, first_after_seconds, every_seconds), name="regular_pruning")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _prune(ledger: ResultLedger, policy: PrunePolicy, first_after_seconds: float, every_seconds: float) -> None:
    log: Any = structlog.get_logger(__name__)
    await asyncio.sleep(first_after_seconds)
    while True:
        try:
            pruned = await ledger.prune(policy)
        except PruneInProgressError:
            # Another replica is at it, with the same policy.
            log.debug("ledger_pruned_elsewhere")
        except TextsMovingError:
            log.info("ledger_not_pruned_yet", reason="texts are being moved")
        except LedgerUnavailableError as error:
            log.warning("ledger_not_pruned", error=str(error))
        else:
            log.info(
                "ledger_pruned",
                runs=len(pruned.runs),
                results=pruned.result_count,
                texts=pruned.text_count,
                text_bytes=pruned.text_bytes,
            )
        await asyncio.sleep(every_seconds)
