"""Moves the texts of an older ledger while the service runs, until all are moved."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from services.aggregation.ledger import SqlLedger

AGAIN_SECONDS: Final = 30.0


@asynccontextmanager
async def background_moving(ledger: SqlLedger, *, again_seconds: float = AGAIN_SECONDS) -> AsyncIterator[None]:
    """Move texts in the background for the length of the ``with`` block."""
    task = asyncio.create_task(_move(ledger, again_seconds), name="background_moving")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _move(ledger: SqlLedger, again_seconds: float) -> None:
    log: Any = structlog.get_logger(__name__)
    while True:
        try:
            await ledger.move_texts()
        except Exception as error:
            log.warning("texts_not_moved", error=str(error), exc_info=error)
        else:
            return
        await asyncio.sleep(again_seconds)
