"""Opens a service's own database and brings its tables up to date."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.runtime.errors import StartupError
from services.runtime.sqlite_journal import SMALL_PAGES, bounded_journal

ResultT = TypeVar("ResultT")


async def unbroken(operation: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Finish a transaction even when its caller is cancelled in the middle, then let the cancellation go on.

    A cancelled aiosqlite call goes on in its thread while SQLAlchemy takes its connection away; the write lock can
    then stay taken for good.
    """
    task = asyncio.ensure_future(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, to be opened by this process alone."""
    return URL.create("sqlite+aiosqlite", database=str(path.absolute())).render_as_string(hide_password=False)


async def open_database(
    url: str, *, migrations: Path, durable: bool = True, journal_pages: int = SMALL_PAGES
) -> AsyncEngine:
    """Open the database at ``url``, creating an SQLite file if it is new, and run the missing migrations.

    Args:
        url: an SQLAlchemy URL with an async driver, e.g. ``sqlite+aiosqlite:///ledger.sqlite``.
        migrations: folder of Alembic scripts.
        durable: SQLite only. True: a commit survives a power cut (synchronous=FULL). False: a power cut may take the
            last commits (synchronous=NORMAL); the death of a process takes none either way.
        journal_pages: SQLite only. Pages of 4 KiB at which the journal beside the file is copied back.

    Raises:
        StartupError: the URL is malformed, the file cannot be opened, or a newer EvalFleet wrote it.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            await asyncio.to_thread(Path(parsed.database).parent.mkdir, parents=True, exist_ok=True)
        engine = create_async_engine(parsed)
    except (ArgumentError, ModuleNotFoundError, OSError) as error:
        raise StartupError(f"cannot use the database {url!r}: {error}", reason="DATABASE_URL_INVALID") from error
    if engine.dialect.name == "sqlite":
        _tune_sqlite(engine, durable=durable, journal_pages=journal_pages)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, migrations)
    except DBAPIError as error:
        await engine.dispose()
        raise StartupError(f"cannot open the database {url!r}: {error.orig}", reason="DATABASE_UNUSABLE") from error
    except BaseException:
        await engine.dispose()
        raise
    return engine


def _tune_sqlite(engine: AsyncEngine, *, durable: bool, journal_pages: int) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            *bounded_journal(journal_pages),
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            "busy_timeout=10000",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def _upgrade(connection: Connection, migrations: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection).get_current_heads()
    if unknown := sorted(set(found) - known):
        raise StartupError(
            f"the database {connection.engine.url.database!r} was written by a newer EvalFleet "
            f"(revision {', '.join(unknown)}); upgrade this service or choose another state folder",
            reason="DATABASE_TOO_NEW",
        )
    alembic.command.upgrade(config, "head")
