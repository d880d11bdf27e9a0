"""A real PostgreSQL behind a way that falls silent: nobody closes a connection, and nothing comes back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from services.runtime.database import database_url
from services.runtime.database_engine import PoolLimits, postgres_engine
from services.standalone.postgres_server import PostgresServer
from tests.fakes.freezable_proxy import freezable_proxy

pytestmark = pytest.mark.integration


@asynccontextmanager
async def opened(url: str, *ports: int, limits: PoolLimits | None = None) -> AsyncIterator[AsyncEngine]:
    """The database, by way of these ports."""
    user, _, server = url.partition("@")
    hosts, name = ",".join(f"127.0.0.1:{port}" for port in ports), server.partition("/")[2]
    engine = postgres_engine(make_url(database_url(f"{user}@{hosts}/{name}")), "", limits or PoolLimits())
    try:
        yield engine
    finally:
        await engine.dispose()


async def backend(engine: AsyncEngine) -> int:
    """The server's process behind the next connection."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def test_a_server_that_takes_connections_and_never_answers_is_passed_over(postgres: PostgresServer) -> None:
    async with freezable_proxy(None) as silent, freezable_proxy(postgres.port) as there:
        limits = PoolLimits(connect_seconds=6.0)
        async with opened(postgres.new_database(), silent.port, there.port, limits=limits) as engine:
            await backend(engine)
            assert (silent.connections, there.connections) == (1, 1)
            await engine.dispose()
            await backend(engine)
            assert (silent.connections, there.connections) == (1, 2), "it is not waited for again"
