"""Opens a service's own database and brings its tables up to date: an SQLite file, or a schema in PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from asyncpg import InterfaceError, PostgresError
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.runtime.errors import StartupError
from services.runtime.sqlite_journal import SMALL_PAGES, bounded_journal

ResultT = TypeVar("ResultT")

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError, InterfaceError, PostgresError)
"""What a statement may raise when the database is away or refuses; connecting raises errors of the driver's own."""

_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_LONGEST_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 10.0
_COMMAND_SECONDS: Final = 120.0
_MIGRATION_LOCK: Final = 0x65766C66
"""Key of the advisory lock that lets one replica at a time migrate; any number that nobody else uses."""
_SESSION: Final = {
    "application_name": "evalfleet",
    # A process that is stopped in the middle of a transaction must not keep its rows from the others for ever.
    "idle_in_transaction_session_timeout": "10s",
    # The same for a machine that is gone without a word.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}


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


def database_url(told: str) -> str:
    """The URL with the driver that services use; ``told`` is ``sqlite:///PATH`` or ``postgresql://USER@HOST/DATABASE``.

    Raises:
        StartupError: DATABASE_URL_INVALID: it is neither.
    """
    try:
        url = make_url(told)
        backend, database = url.drivername.partition("+")[0], url.database
    except ArgumentError:
        backend, database = "", None
    if backend not in _DRIVERS or database in (None, "", ":memory:"):
        raise StartupError(
            f"{_shown(told)!r} names no database; write sqlite:///folder/file.sqlite or "
            "postgresql://user:password@host/database",
            reason="DATABASE_URL_INVALID",
        )
    return url.set(drivername=_DRIVERS[backend]).render_as_string(hide_password=False)


def is_shared(engine: AsyncEngine) -> bool:
    """Whether other processes use the same database: PostgreSQL, but not a file."""
    return engine.dialect.name != "sqlite"


async def open_database(
    url: str, *, migrations: Path, schema: str = "", durable: bool = True, journal_pages: int = SMALL_PAGES
) -> AsyncEngine:
    """Open the database at ``url``, creating an SQLite file or a schema if it is new, and run the missing migrations.

    Args:
        url: an SQLAlchemy URL with an async driver, e.g. ``sqlite+aiosqlite:///ledger.sqlite``; see ``database_url``.
        migrations: folder of Alembic scripts.
        schema: PostgreSQL only. Where the tables are, so that services may share a database; default: ``public``.
        durable: SQLite only. True: a commit survives a power cut (synchronous=FULL). False: a power cut may take the
            last commits (synchronous=NORMAL); the death of a process takes none either way.
        journal_pages: SQLite only. Pages of 4 KiB at which the journal beside the file is copied back.

    Raises:
        StartupError: the URL is malformed, the database cannot be opened, or a newer EvalFleet wrote it. A PostgreSQL
            that is away is waited for, 30 s; one that migrates, here or for another replica, as long as that takes.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            await asyncio.to_thread(Path(parsed.database).parent.mkdir, parents=True, exist_ok=True)
        engine = _create(parsed, schema)
    except (ArgumentError, ModuleNotFoundError, OSError) as error:
        raise StartupError(
            f"cannot use the database {_shown(url)!r}: {error}", reason="DATABASE_URL_INVALID"
        ) from error
    if not is_shared(engine):
        _tune_sqlite(engine, durable=durable, journal_pages=journal_pages)
    try:
        async with _patient(engine, parsed, schema) as patient:
            await _migrate(patient, migrations, schema)
    except DATABASE_ERRORS as error:
        await engine.dispose()
        cause = getattr(error, "orig", None) or error
        raise StartupError(f"cannot open the database {_shown(url)!r}: {cause}", reason="DATABASE_UNUSABLE") from error
    except BaseException:
        await engine.dispose()
        raise
    return engine


def _create(url: URL, schema: str, *, command_seconds: float | None = _COMMAND_SECONDS) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        return create_async_engine(url)
    session = {**_SESSION, "search_path": schema} if schema else _SESSION
    return create_async_engine(
        url,
        # A connection that the server closed meanwhile is replaced before anybody meets it.
        pool_pre_ping=True,
        connect_args={"timeout": _CONNECT_SECONDS, "command_timeout": command_seconds, "server_settings": session},
    )


@asynccontextmanager
async def _patient(engine: AsyncEngine, url: URL, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose statements may take as long as those of migrations do, or as long as another replica's take."""
    if not is_shared(engine):
        yield engine
        return
    patient = _create(url, schema, command_seconds=None)
    try:
        yield patient
    finally:
        await patient.dispose()


async def _migrate(engine: AsyncEngine, migrations: Path, schema: str) -> None:
    give_up_at = time.monotonic() + (_LONGEST_START_SECONDS if is_shared(engine) else 0.0)
    while True:
        try:
            async with engine.begin() as connection:
                if is_shared(engine):
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                    if schema:
                        await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
                await connection.run_sync(_upgrade, migrations)
        except DATABASE_ERRORS as error:
            if not _is_away(error) or time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return


def _is_away(error: BaseException) -> bool:
    """Whether an error says that the server is starting, stopping or not there, rather than that it refuses us."""
    if isinstance(error, OSError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    # Class 57P: operator intervention (starting up, shutting down); class 08: connection exceptions.
    state = getattr(getattr(error, "orig", None) or error, "sqlstate", None) or ""
    return state.startswith(("57P", "08"))


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


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
