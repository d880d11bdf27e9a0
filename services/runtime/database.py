"""Opens a service's own database and brings its tables up to date: an SQLite file, or a schema in PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.runtime.database_engine import DATABASE_ERRORS, PoolLimits, is_shared, postgres_engine, tune_sqlite
from services.runtime.errors import StartupError
from services.runtime.migrations import await_schema, migrate
from services.runtime.sqlite_journal import SMALL_PAGES

ResultT = TypeVar("ResultT")

_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_LONGEST_START_SECONDS: Final = 30.0
_SEVERAL_HOSTS: Final = re.compile(
    r"(?P<before>\w+(?:\+\w+)?://(?:[^@/]*@)?)(?P<hosts>[^@/,]+(?:,[^@/,]+)+)(?P<after>/.*)"
)
_POSTGRES_PORT: Final = 5432


@dataclass(frozen=True, slots=True)
class DatabaseUse:
    """How a service uses its database.

    Attributes:
        limits: of its connections to PostgreSQL.
        migrates: whether it brings the tables up to date when it starts; a file's are in any case.
        schema_wait_seconds: how long it waits for somebody else to do so, if it does not.
    """

    limits: PoolLimits = field(default_factory=PoolLimits)
    migrates: bool = True
    schema_wait_seconds: float = 60.0


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

    Several hosts, separated by commas, are tried in turn until one takes writes.

    Raises:
        StartupError: DATABASE_URL_INVALID: it is neither.
    """
    try:
        url: URL = make_url(_with_hosts_apart(told))
        backend, database = url.drivername.partition("+")[0], url.database
    except (ArgumentError, ValueError):
        backend, database = "", None
    if backend not in _DRIVERS or database in (None, "", ":memory:"):
        raise StartupError(
            f"{_shown(_with_hosts_apart(told))!r} names no database; write sqlite:///folder/file.sqlite or "
            "postgresql://user:password@host/database",
            reason="DATABASE_URL_INVALID",
        )
    if "sslmode" in url.query:
        # As libpq's tools have it; the driver has another name for it.
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    return url.set(drivername=_DRIVERS[backend]).render_as_string(hide_password=False)


async def open_database(
    url: str,
    *,
    migrations: Path,
    schema: str = "",
    durable: bool = True,
    journal_pages: int = SMALL_PAGES,
    use: DatabaseUse | None = None,
) -> AsyncEngine:
    """Open the database at ``url``, creating an SQLite file or a schema if it is new, and run the missing migrations.

    Args:
        url: an SQLAlchemy URL with an async driver, e.g. ``sqlite+aiosqlite:///ledger.sqlite``; see ``database_url``.
        migrations: folder of Alembic scripts.
        schema: PostgreSQL only. Where the tables are, so that services may share a database; default: ``public``.
        durable: SQLite only. True: a commit survives a power cut (synchronous=FULL). False: a power cut may take the
            last commits (synchronous=NORMAL); the death of a process takes none either way.
        journal_pages: SQLite only. Pages of 4 KiB at which the journal beside the file is copied back.
        use: connections, and who migrates.

    Raises:
        StartupError: the URL is malformed, the database cannot be opened, a newer EvalFleet wrote it, or nobody has
            migrated it in time. A PostgreSQL that is away is waited for, 30 s; one that migrates, here or for another
            replica, as long as that takes.
    """
    use = use or DatabaseUse()
    engine = await _engine(url, schema, use.limits)
    if not is_shared(engine):
        tune_sqlite(engine, durable=durable, journal_pages=journal_pages)
    try:
        if use.migrates or not is_shared(engine):
            async with _patient(engine, schema, use.limits) as patient:
                await migrate(patient, migrations, schema, patience_seconds=_LONGEST_START_SECONDS)
        else:
            await await_schema(engine, migrations, schema, patience_seconds=use.schema_wait_seconds)
    except DATABASE_ERRORS as error:
        await engine.dispose()
        raise unusable(url, error) from error
    except BaseException:
        await engine.dispose()
        raise
    return engine


@asynccontextmanager
async def maintenance_engine(url: str, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine for what takes as long as it takes: migrations.

    Raises:
        StartupError: DATABASE_URL_INVALID.
    """
    engine = await _engine(url, schema, replace(PoolLimits(), statement_seconds=None))
    if not is_shared(engine):
        tune_sqlite(engine, durable=True, journal_pages=SMALL_PAGES)
    try:
        yield engine
    finally:
        await engine.dispose()


def unusable(url: str, error: BaseException) -> StartupError:
    """Say why the database cannot be used, without its password."""
    cause = getattr(error, "orig", None) or error
    return StartupError(f"cannot open the database {_shown(url)!r}: {cause}", reason="DATABASE_UNUSABLE")


async def _engine(url: str, schema: str, limits: PoolLimits) -> AsyncEngine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return postgres_engine(parsed, schema, limits)
        if parsed.database:
            await asyncio.to_thread(Path(parsed.database).parent.mkdir, parents=True, exist_ok=True)
        return create_async_engine(parsed)
    except (ArgumentError, ModuleNotFoundError, OSError) as error:
        raise StartupError(
            f"cannot use the database {_shown(url)!r}: {error}", reason="DATABASE_URL_INVALID"
        ) from error


@asynccontextmanager
async def _patient(engine: AsyncEngine, schema: str, limits: PoolLimits) -> AsyncIterator[AsyncEngine]:
    """An engine whose statements may take as long as those of migrations do, or as long as another replica's take."""
    if not is_shared(engine):
        yield engine
        return
    patient = postgres_engine(engine.url, schema, replace(limits, statement_seconds=None))
    try:
        yield patient
    finally:
        await patient.dispose()


def _with_hosts_apart(told: str) -> str:
    """Write ``//user@a:5432,b:5432/name``, as libpq's tools do, as SQLAlchemy reads it."""
    if (found := _SEVERAL_HOSTS.fullmatch(told)) is None:
        return told
    hosts = [each if ":" in each else f"{each}:{_POSTGRES_PORT}" for each in found["hosts"].split(",")]
    told = found["before"] + found["after"]
    return told + ("&" if "?" in told else "?") + "&".join(f"host={each}" for each in hosts)


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return re.sub(r"//[^@]*@", "//***@", url)
