"""The tables of runs: a start that died in the middle of any migration is finished by the next one."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, text

from services.evaluation.rankings.store import METADATA as RANKINGS
from services.evaluation.runs.account_store import DAYS
from services.runtime.database import open_database, sqlite_url

MIGRATIONS = Path(__file__).parents[3] / "services" / "evaluation" / "migrations"
HALF_MADE = {
    "0001": ["DROP INDEX ix_runs_create_time"],
    "0002": [],
    "0004": ["ALTER TABLE runs DROP COLUMN stop_reason"],
    "0005": ["DROP TABLE caller_holdings"],
    "0006": ["DROP INDEX ix_rankings_create_time"],
    "0007": ["DROP TABLE run_shards"],
    "0008": ["ALTER TABLE runs DROP COLUMN escalation"],
    "0009": ["DROP TABLE run_helpers", "ALTER TABLE run_shards DROP COLUMN spent"],
}
"""What undoes the end of a migration."""


def differences(connection: Connection) -> list[object]:
    expected = MetaData()
    for table in (*DAYS.metadata.tables.values(), *RANKINGS.tables.values()):
        table.to_metadata(expected)
    return list(compare_metadata(MigrationContext.configure(connection), expected))


@pytest.mark.parametrize("revision", HALF_MADE)
async def test_a_start_that_died_midway_is_finished(tmp_path: Path, revision: str) -> None:
    url = sqlite_url(tmp_path / "runs.sqlite")
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        for statement in HALF_MADE[revision]:
            await connection.execute(text(statement))
        before = f"{int(revision) - 1:04}"
        await connection.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})
        await connection.execute(text("DELETE FROM alembic_version WHERE version_num = '0000'"))
    await engine.dispose()
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()
