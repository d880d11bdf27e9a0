"""What the ledger does while PostgreSQL fails over to a standby, stops taking writes, or is migrated by others."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.aggregation.drawings.desk import DrawingDesk
from services.aggregation.drawings.records import DrawingSpec
from services.aggregation.errors import LedgerUnavailableError
from services.aggregation.ledger import MIGRATIONS, SqlLedger, open_ledger
from services.aggregation.records import AppendCounts
from services.runtime import migrations
from services.runtime.database import DatabaseUse, database_url, open_database
from services.runtime.errors import NotFoundError, StartupError
from services.runtime.migrations import SchemaAge, migrate, schema_state
from services.standalone.postgres_server import PostgresServer, running_postgres
from tests.integration.test_ledger_postgres import read, result
from tests.patience import LONGEST_WAIT_SECONDS, until

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A server and its standby."""
    with running_postgres() as primary:
        if primary is None:
            pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
        with primary.standby() as standby:
            yield primary, standby


async def test_a_standby_takes_over_with_everything_that_was_acknowledged(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    primary, standby = pair
    name = primary.new_database()
    both = name.replace(f":{primary.port}", f":{primary.port},127.0.0.1:{standby.port}")
    async with open_ledger(database_url(both)) as ledger:
        assert await ledger.append([result("a")]) == AppendCounts(1, 0)
        await asyncio.to_thread(primary.kill)
        # The standby answers, but nothing can be written there: that is no server to use.
        with pytest.raises(LedgerUnavailableError) as caught:
            await ledger.append([result("b")])
        assert caught.value.retry_after_seconds is not None
        assert not await ledger.is_ready()
        await asyncio.to_thread(standby.promote)
        assert await ledger.append([result("a"), result("b")]) == AppendCounts(1, 1)
        assert await ledger.is_ready()
        assert [each.key.item for each in await read(ledger)] == ["a", "b"]


async def test_no_id_of_a_lost_commit_is_used_in_a_standby_that_has_given_it_to_others() -> None:
    """A standby without the last commits takes over, and another replica is the first that it gives these ids to."""
    with running_postgres() as primary:
        if primary is None:
            pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
        name = primary.new_database()
        await (await open_database(database_url(name), migrations=MIGRATIONS, schema="aggregation")).dispose()
        with primary.standby(is_synchronous=False) as standby:
            await asyncio.to_thread(standby.stop)
            both = database_url(name.replace(f":{primary.port}", f":{primary.port},127.0.0.1:{standby.port}"))
            async with open_ledger(both) as ledger:
                desk = DrawingDesk(ledger.drawings)
                await ledger.append([result("lost", run="runs/mine", prompt="mine" * 100)])
                await desk.create(drawing_of("runs/mine"), ["x", "y"])
                assert len((await desk.draw("runs/mine", "drawn", 0, 1)).draws) == 1
                await asyncio.to_thread(primary.kill)
                await asyncio.to_thread(standby.start)
                await asyncio.to_thread(standby.promote)
                async with open_ledger(both) as other:
                    await other.append([result("a", run="runs/theirs", prompt="theirs" * 100)])
                    await DrawingDesk(other.drawings).create(drawing_of("runs/theirs"), ["x", "y"])
                mine = result("b", run="runs/mine", prompt="mine" * 100)
                assert await ledger.append([mine]) == AppendCounts(1, 0)
                assert await read(ledger, "runs/mine") == [mine]
                assert [each.key.item for each in await read(ledger, "runs/theirs")] == ["a"]
                # Nor does the desk go on with the draws of a drawing that is gone, in the one that has its id.
                with pytest.raises(NotFoundError):
                    await desk.draw("runs/mine", "drawn", 1, 1)
                [theirs] = await desk.decisions("runs/theirs")
                assert (theirs.drawn_count, theirs.item_count) == (0, 2)
            # Which is so here: what the other made has the ids of what was lost.
            ids = "SELECT run_id, drawing_id FROM aggregation.runs JOIN aggregation.drawings USING (run_id)"
            assert standby.query(standby.url(name.rpartition("/")[2]), ids) == [{"run_id": "1", "drawing_id": "1"}]


def drawing_of(run: str) -> DrawingSpec:
    return DrawingSpec(run=run, task="drawn", metric="acc", seed=7, model="models/m", model_digest="m", data_digest="d")


async def test_connections_to_a_server_that_stops_taking_writes_are_given_up(
    url: str, postgres: PostgresServer
) -> None:
    async with open_ledger(database_url(url)) as ledger:
        await ledger.append([result("a")])
        before = await backend(ledger)
        database = url.rpartition("/")[2]
        # As where a proxy goes on leading to a server that was demoted.
        async with ledger._engine.connect() as connection:
            await connection.execute(text("SET default_transaction_read_only = on"))
            await connection.commit()
        with pytest.raises(LedgerUnavailableError, match="read-only"):
            await ledger.append([result("b")])
        assert await ledger.append([result("b")]) == AppendCounts(1, 0)
        assert await backend(ledger) != before
        assert postgres.query(url, "SELECT count(*) FROM aggregation.results") == [{"count": "2"}], database


async def backend(ledger: SqlLedger) -> int:
    """The server's process behind the only connection."""
    async with ledger._engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


def migrating(url: str, *arguments: str, service: str = "aggregation") -> "subprocess.Popen[str]":
    environment = {**os.environ, "EVALFLEET_LEDGER_URL": url, "EVALFLEET_RUNS_URL": url}
    return subprocess.Popen(
        [sys.executable, "-m", f"services.{service}.migrate", *arguments],
        env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    told, _ = process.communicate(timeout=LONGEST_WAIT_SECONDS)
    return process.returncode, told.strip()


def test_the_migrations_job_may_run_several_times_at_once(url: str, postgres: PostgresServer) -> None:
    # Before, nothing is there; and a check changes nothing.
    code, told = ended(migrating(url, "--check"))
    assert (code, told.startswith("aggregation: the tables are older: at nothing")) == (3, True), told
    jobs = [migrating(url), migrating(url), migrating(url, service="evaluation")]
    (first, second, runs) = [ended(each) for each in jobs]
    assert [first[0], second[0], runs[0]] == [0, 0, 0], (first, second, runs)
    assert sorted(each[1].split(" ")[1] for each in (first, second)) == ["migrated", "nothing"]
    # A release is rolled back by undoing what its migrations did, and says so where that cannot be.
    code, told = ended(migrating(url, "--to=0006"))
    assert (code, told.endswith("to 0006")) == (0, True), told
    code, told = ended(migrating(url, "--to=0004"))
    assert (code, "restore a backup" in told) == (1, True), told
    assert ended(migrating(url, "--check"))[0] == 3
    postgres.query(url, "UPDATE aggregation.alembic_version SET version_num = '9999'")
    code, told = ended(migrating(url))
    assert code == 4
    assert "newer EvalFleet" in told


async def test_a_service_that_was_told_to_wait_begins_once_others_have_migrated(
    url: str, postgres: PostgresServer
) -> None:
    def opening(seconds: float) -> Any:
        use = DatabaseUse(migrates=False, schema_wait_seconds=seconds)
        return open_database(database_url(url), migrations=MIGRATIONS, schema="aggregation", use=use)

    with pytest.raises(StartupError, match=r"python -m services\.aggregation\.migrate") as caught:
        await opening(0.0)
    assert caught.value.reason == "DATABASE_TOO_OLD"
    waiting = asyncio.create_task(opening(LONGEST_WAIT_SECONDS))
    migrated = await open_database(database_url(url), migrations=MIGRATIONS, schema="aggregation")
    engine: AsyncEngine = await waiting
    assert (await schema_state(engine, MIGRATIONS)).age is SchemaAge.CURRENT
    await engine.dispose()
    await migrated.dispose()
    postgres.query(url, "UPDATE aggregation.alembic_version SET version_num = '9999'")
    with pytest.raises(StartupError, match="newer") as caught:
        await opening(LONGEST_WAIT_SECONDS)
    assert caught.value.reason == "DATABASE_TOO_NEW"


async def test_a_migration_does_not_queue_for_a_table_that_others_use(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes after a migration that waits for a lock waits for both, so it gives up and comes back."""
    attempts = 0
    enter = migrations._enter

    async def counted(connection: AsyncConnection, schema: str) -> None:
        nonlocal attempts
        attempts += 1
        await enter(connection, schema)

    engine = await open_database(database_url(url), migrations=MIGRATIONS, schema="aggregation")
    monkeypatch.setattr(migrations, "_enter", counted)
    monkeypatch.setattr(migrations, "_LOCK_SECONDS", 0.05)
    other = create_async_engine(database_url(url))
    async with other.begin() as reading:
        await reading.execute(text("LOCK TABLE aggregation.alembic_version"))
        patience = LONGEST_WAIT_SECONDS
        working = asyncio.create_task(migrate(engine, MIGRATIONS, "aggregation", patience_seconds=patience))
        await until(lambda: attempts >= 2)
        assert not working.done()
    assert (await working).age is SchemaAge.CURRENT
    await engine.dispose()
    await other.dispose()
