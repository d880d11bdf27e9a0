"""The list of runs in a file, as its tests open it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from services.evaluation.runs.store import RunStore
from services.runtime.database import open_database, sqlite_url

MIGRATIONS = Path(__file__).parents[4] / "services" / "evaluation" / "migrations"


class SharedStore(RunStore):
    """The list of runs as replicas share it, though it is in a file: nobody may take all leases for ended."""

    @property
    def is_shared(self) -> bool:
        return True


@asynccontextmanager
async def opened(file: Path) -> AsyncIterator[AsyncEngine]:
    """The database of the evaluation service in a file."""
    engine = await open_database(sqlite_url(file), migrations=MIGRATIONS, durable=False)
    yield engine
    await engine.dispose()
