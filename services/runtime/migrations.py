"""Brings a database's tables to the revision that this code knows, or waits until somebody else has."""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

import alembic.command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.runtime.database_engine import DATABASE_ERRORS, is_away, is_shared, sqlstate
from services.runtime.errors import StartupError

_POLL_SECONDS: Final = 0.5
_MIGRATION_LOCK: Final = 0x65766C66
"""Key of the advisory lock that lets one replica at a time migrate; any number that nobody else uses."""
_LOCK_SECONDS: Final = 3
_LOCKED_OUT: Final = ("55P03", "40P01")
"""A table's lock was not to be had in time, or only by a deadlock: another attempt may get it."""


class SchemaAge(Enum):
    """How the tables of a database compare with what the code knows."""

    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision of a database.

    Attributes:
        age: beside this code's.
        found: the revision of the tables; empty: there are none.
        expected: this code's.
    """

    age: SchemaAge
    found: str
    expected: str


async def migrate(
    engine: AsyncEngine, migrations: Path, schema: str, *, patience_seconds: float, target: str = ""
) -> SchemaState:
    """Run the missing migrations, one process at a time; return what was found.

    With a ``target``, an earlier release's revision, later ones are undone, as far as they can be.

    A server that is away is waited for, and so is a lock that others hold on a table. Who waits for a table's lock
    keeps everybody else from the table, so no attempt waits long.

    Raises:
        StartupError: DATABASE_TOO_NEW; REVISION_UNKNOWN; REVISION_NOT_REVERSIBLE: what was lost cannot be put back.
        SQLAlchemyError, OSError, …: see ``DATABASE_ERRORS``; the database refused, or the patience is used up.
    """
    give_up_at = time.monotonic() + (patience_seconds if is_shared(engine) else 0.0)
    while True:
        try:
            async with engine.begin() as connection:
                if is_shared(engine):
                    await _enter(connection, schema)
                return await connection.run_sync(_change, migrations, target)
        except DATABASE_ERRORS as error:
            is_passing = is_away(error) or sqlstate(error) in _LOCKED_OUT
            if not is_passing or time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(_POLL_SECONDS)


async def await_schema(engine: AsyncEngine, migrations: Path, schema: str, *, patience_seconds: float) -> None:
    """Wait until the tables are what this code knows.

    Raises:
        StartupError: DATABASE_TOO_OLD: nobody has migrated them in time; DATABASE_TOO_NEW.
        SQLAlchemyError, OSError, …: see ``DATABASE_ERRORS``; the database refused, or was away for as long.
    """
    give_up_at = time.monotonic() + patience_seconds
    while True:
        is_over = time.monotonic() >= give_up_at
        try:
            state = await schema_state(engine, migrations)
        except DATABASE_ERRORS as error:
            if not is_away(error) or is_over:
                raise
        else:
            if state.age is SchemaAge.CURRENT:
                return
            if state.age is SchemaAge.NEWER:
                raise _too_new(engine.url.database, state)
            if is_over:
                raise StartupError(
                    f"the database {engine.url.database!r} is at revision {state.found or 'none'}, and this service "
                    f"needs {state.expected}: run `python -m services.{schema}.migrate`, or let the service migrate "
                    "when it starts (EVALFLEET_DATABASE_MIGRATIONS=run)",
                    reason="DATABASE_TOO_OLD",
                )
        await asyncio.sleep(_POLL_SECONDS)


async def schema_state(engine: AsyncEngine, migrations: Path) -> SchemaState:
    """Compare the tables with this code, changing nothing."""
    async with engine.connect() as connection:
        return await connection.run_sync(lambda opened: _state(opened, _script(opened, migrations)))


async def _enter(connection: AsyncConnection, schema: str) -> None:
    """Wait for other replicas' migrations, and make the schema."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    await connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    if schema:
        await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))


def _change(connection: Connection, migrations: Path, target: str) -> SchemaState:
    config = _config(connection, migrations)
    script = ScriptDirectory.from_config(config)
    found = _state(connection, script)
    if found.age is SchemaAge.NEWER:
        raise _too_new(connection.engine.url.database, found)
    if not target:
        alembic.command.upgrade(config, "head")
        return found
    known = [revision.revision for revision in script.walk_revisions()]
    if target not in known:
        raise StartupError(f"no revision {target!r}; known: {', '.join(sorted(known))}", reason="REVISION_UNKNOWN")
    applied = {revision.revision for revision in script.iterate_revisions(found.found or None, "base")}
    try:
        (alembic.command.downgrade if target in applied else alembic.command.upgrade)(config, target)
    except RuntimeError as error:
        raise StartupError(f"{error}; nothing was changed", reason="REVISION_NOT_REVERSIBLE") from error
    return replace(found, expected=target)


def _config(connection: Connection, migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _script(connection: Connection, migrations: Path) -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(connection, migrations))


def _state(connection: Connection, script: ScriptDirectory) -> SchemaState:
    known = {revision.revision for revision in script.walk_revisions()}
    expected = script.get_heads()
    found = MigrationContext.configure(connection).get_current_heads()
    if set(found) - known:
        age = SchemaAge.NEWER
    else:
        age = SchemaAge.CURRENT if set(found) == set(expected) else SchemaAge.OLDER
    return SchemaState(age, _shown(found), _shown(expected))


def _shown(revisions: Collection[str]) -> str:
    return ", ".join(sorted(revisions))


def _too_new(database: str | None, state: SchemaState) -> StartupError:
    return StartupError(
        f"the database {database!r} was written by a newer EvalFleet "
        f"(revision {state.found}); upgrade this service or choose another state folder",
        reason="DATABASE_TOO_NEW",
    )
