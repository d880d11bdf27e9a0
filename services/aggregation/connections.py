"""Borrows connections to the ledger's database, and says in its words when it cannot be used."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.aggregation.errors import LedgerUnavailableError
from services.runtime.database import unbroken
from services.runtime.database_engine import DATABASE_ERRORS


@asynccontextmanager
async def borrowed(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Borrow a connection; one that is still being opened when its borrower is cancelled is given back, not lost."""
    opening = asyncio.ensure_future(engine.connect().start())
    try:
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await opening.result().close()
        raise
    try:
        yield connection
    finally:
        await unbroken(connection.close())


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the database's errors into ``LedgerUnavailableError``."""
    try:
        yield
    except DATABASE_ERRORS as error:
        cause = getattr(error, "orig", None) or error
        raise LedgerUnavailableError(f"the ledger cannot be used: {cause}; try again") from error
