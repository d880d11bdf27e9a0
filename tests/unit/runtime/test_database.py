"""How a service opens its database."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.runtime import database


class FakeEngine:
    """A PostgreSQL that nobody connects to."""

    dialect = SimpleNamespace(name="postgresql")

    def __init__(self, command_seconds: float | None) -> None:
        self.command_seconds = command_seconds
        self.is_disposed = False

    async def dispose(self) -> None:
        self.is_disposed = True


async def test_migrations_may_take_longer_than_any_other_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated: list[FakeEngine] = []

    def create(url: Any, *, connect_args: Any, **_rest: Any) -> FakeEngine:
        return FakeEngine(connect_args["command_timeout"])

    async def migrate(engine: Any, _migrations: Path, _schema: str) -> None:
        migrated.append(engine)

    monkeypatch.setattr(database, "create_async_engine", create)
    monkeypatch.setattr(database, "_migrate", migrate)
    opened: Any = await database.open_database("postgresql+asyncpg://me@nowhere/db", migrations=tmp_path)
    [engine] = migrated
    assert (engine.command_seconds, engine.is_disposed) == (None, True)
    assert (opened.command_seconds, opened.is_disposed) == (120.0, False)
