"""How a service opens its database."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from services.runtime import database
from services.runtime.database import DatabaseUse, database_url, open_database
from services.runtime.database_engine import PoolLimits
from services.runtime.errors import StartupError


class FakeEngine:
    """A PostgreSQL that nobody connects to."""

    dialect = SimpleNamespace(name="postgresql")
    url = make_url("postgresql+asyncpg://me@nowhere/db")

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.is_disposed = False

    async def dispose(self) -> None:
        self.is_disposed = True


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    engines: list[FakeEngine] = []

    def create(_url: Any, _schema: str, limits: PoolLimits) -> FakeEngine:
        engines.append(FakeEngine(limits))
        return engines[-1]

    monkeypatch.setattr(database, "postgres_engine", create)
    return engines


async def test_migrations_may_take_longer_than_any_other_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created: list[FakeEngine]
) -> None:
    migrated: list[Any] = []

    async def migrate(engine: Any, _migrations: Path, _schema: str, **_rest: Any) -> None:
        migrated.append(engine)

    monkeypatch.setattr(database, "migrate", migrate)
    use = DatabaseUse(PoolLimits(connections=3, statement_seconds=7.0))
    opened: Any = await open_database("postgresql+asyncpg://me@nowhere/db", migrations=tmp_path, use=use)
    assert [opened, *migrated] == created
    assert [(each.limits.statement_seconds, each.limits.connections) for each in created] == [(7.0, 3), (None, 3)]
    assert [each.is_disposed for each in created] == [False, True]


async def test_a_service_that_does_not_migrate_waits_for_those_who_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created: list[FakeEngine]
) -> None:
    async def too_old(_engine: Any, _migrations: Path, schema: str, *, patience_seconds: float) -> None:
        raise StartupError(f"{schema} {patience_seconds}", reason="DATABASE_TOO_OLD")

    monkeypatch.setattr(database, "await_schema", too_old)
    with pytest.raises(StartupError, match=r"aggregation 5\.0"):
        await open_database(
            "postgresql+asyncpg://me@nowhere/db",
            migrations=tmp_path,
            schema="aggregation",
            use=DatabaseUse(migrates=False, schema_wait_seconds=5.0),
        )
    assert [each.is_disposed for each in created] == [True]


@pytest.mark.parametrize(
    ("told", "hosts"),
    [
        ("postgresql://me:p%40ss@db-1:5433,db-2/evalfleet", ("db-1:5433", "db-2:5432")),
        ("postgres://db-1,db-2:1,db-3/evalfleet?ssl=require", ("db-1:5432", "db-2:1", "db-3:5432")),
    ],
)
def test_a_url_may_name_several_servers(told: str, hosts: tuple[str, ...]) -> None:
    url = make_url(database_url(told))
    assert (url.drivername, url.database, url.host, url.query["host"]) == (
        "postgresql+asyncpg",
        "evalfleet",
        None,
        hosts,
    )
    assert (url.password, url.query.get("ssl")) == (("p@ss", None) if "me:" in told else (None, "require"))


def test_encryption_is_asked_for_as_other_tools_of_postgresql_do() -> None:
    url = make_url(database_url("postgresql://me@db/evalfleet?sslmode=verify-full"))
    assert dict(url.query) == {"ssl": "verify-full"}


@pytest.mark.parametrize(
    "told", ["postgresql://me:hunter2@db-1,db-2", "postgresql://me:hunter2@db-1:x,db-2:y/", "x://me:hunter2@:a"]
)
def test_a_url_that_cannot_be_used_is_shown_without_its_password(told: str) -> None:
    with pytest.raises(StartupError) as caught:
        database_url(told)
    assert "hunter2" not in caught.value.message
