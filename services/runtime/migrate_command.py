"""The body of ``python -m services.NAME.migrate``, the Job that brings a service's tables up to date."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from services.runtime.database import maintenance_engine, unusable
from services.runtime.database_engine import DATABASE_ERRORS
from services.runtime.entry import read_settings
from services.runtime.error_types import StartupError
from services.runtime.migrations import SchemaState, migrate, schema_state
from services.runtime.settings import ServiceSettings

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)

_EXIT_CODES = """\
exit codes:
  0  the tables are what this release expects
  1  the database is away, refuses, or the settings are wrong; nothing was changed
  2  the command line is wrong
  3  --check: the tables are older than this release expects
  4  the tables are newer: another release has migrated them
"""


class _Exit(IntEnum):
    CURRENT = 0
    FAILED = 1
    OLDER = 3
    NEWER = 4


def run_migrations(
    name: str,
    settings_class: type[SettingsT],
    url_of: Callable[[SettingsT], str],
    migrations: Path,
    arguments: Sequence[str] | None = None,
) -> int:
    """Migrate the database of a service, or tell how it stands; return the exit code.

    Args:
        name: of the service, and of its schema.
        settings_class: read from the environment, as the service reads it.
        url_of: the database in those settings.
        migrations: folder of Alembic scripts.
        arguments: of the command line; default: this process's.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}.migrate",
        description=f"Bring the tables of the {name} service up to date. Several at once are safe: one migrates, the "
        "others wait and find nothing to do. All is one transaction, so that an interrupted one changes nothing.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="change nothing; say whether there is something to do")
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for a database that is away, or for a lock that others hold (%(default).0f)",
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="REVISION",
        help="undo what came after this revision, an earlier release's, before that release is rolled back to; "
        "stop the services first",
    )
    options = parser.parse_args(arguments)
    try:
        url = url_of(read_settings(settings_class))
        return asyncio.run(_run(name, url, migrations, options))
    except StartupError as error:
        print(f"{name}: {' '.join(error.message.split())}", file=sys.stderr)
        return _Exit.NEWER if error.reason == "DATABASE_TOO_NEW" else _Exit.FAILED


async def _run(name: str, url: str, migrations: Path, options: argparse.Namespace) -> int:
    async with maintenance_engine(url, name) as engine:
        try:
            if options.check:
                return _report(name, await schema_state(engine, migrations))
            found = await migrate(engine, migrations, name, patience_seconds=options.timeout, target=options.to)
        except DATABASE_ERRORS as error:
            raise unusable(url, error) from error
    if found.found == found.expected:
        print(f"{name}: nothing to do, the tables are at {found.expected}")
    else:
        print(f"{name}: migrated from {found.found or 'nothing'} to {found.expected}")
    return _Exit.CURRENT


def _report(name: str, state: SchemaState) -> int:
    print(f"{name}: the tables are {state.age.value}: at {state.found or 'nothing'}, expected {state.expected}")
    return _Exit[state.age.name]
