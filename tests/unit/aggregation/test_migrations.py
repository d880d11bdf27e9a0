"""The ledger's schema: from nothing, again, half made, and from the future."""

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from services.aggregation.ledger import MIGRATIONS, open_ledger
from services.aggregation.records import AppendCounts, Result
from services.aggregation.schema import METADATA
from services.runtime.database import open_database, sqlite_url
from services.runtime.errors import StartupError

ResultFactory = Callable[..., Result]


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), METADATA))


async def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    engine = await open_database(sqlite_url(tmp_path / "new" / "ledger.sqlite"), migrations=MIGRATIONS)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_opening_again_changes_nothing(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as ledger:
        await ledger.append([result("a")])
    async with open_ledger(url) as ledger:
        assert await ledger.append([result("a"), result("b")]) == AppendCounts(1, 1)


async def test_a_start_that_died_between_two_tables_is_finished(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE results"))
        await connection.execute(text("DELETE FROM alembic_version"))
    await engine.dispose()
    async with open_ledger(url) as ledger:
        assert await ledger.append([result("a")]) == AppendCounts(1, 0)


async def test_a_ledger_from_the_future_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(StartupError, match="newer") as caught:
        async with open_ledger(url):
            pass
    assert caught.value.reason == "DATABASE_TOO_NEW"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("I am a diary, not a database. " * 100)
    with pytest.raises(StartupError, match="not a database"):
        async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")):
            pass
