"""A real PostgreSQL behind a way that falls silent: nobody closes a connection, and nothing comes back."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from services.runtime import database_engine
from services.runtime.database import database_url
from services.runtime.database_engine import PoolLimits, postgres_engine
from services.standalone.postgres_server import PostgresServer
from tests.fakes.freezable_proxy import freezable_proxy
from tests.patience import LONGEST_WAIT_SECONDS

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


async def backends(engine: AsyncEngine, count: int) -> set[int]:
    """The processes behind so many connections at once."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(engine.connect()) for _ in range(count)]
        return {int((await each.execute(text("SELECT pg_backend_pid()"))).scalar_one()) for each in connections}


async def test_a_server_that_takes_connections_and_never_answers_is_passed_over(postgres: PostgresServer) -> None:
    async with freezable_proxy(None) as silent, freezable_proxy(postgres.port) as there:
        limits = PoolLimits(connect_seconds=6.0)
        async with opened(postgres.new_database(), silent.port, there.port, limits=limits) as engine:
            await backend(engine)
            assert (silent.connections, there.connections) == (1, 1)
            await engine.dispose()
            await backend(engine)
            assert (silent.connections, there.connections) == (1, 2), "it is not waited for again"


async def test_kept_connections_that_have_fallen_silent_are_replaced_together(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: set[asyncpg.Connection] = set()
    terminate = asyncpg.Connection.terminate

    def counted(connection: asyncpg.Connection) -> None:
        dead.add(connection)
        terminate(connection)

    async with freezable_proxy(postgres.port) as proxy, opened(postgres.new_database(), proxy.port) as engine:
        assert len(await backends(engine, 4)) == 4
        assert len(await backends(engine, 4)) == 4
        assert proxy.connections == 4, "they are kept"
        proxy.freeze()
        monkeypatch.setattr(database_engine, "_PING_SECONDS", 0.5)
        monkeypatch.setattr(asyncpg.Connection, "terminate", counted)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await backend(engine)
            assert len(dead) == 4, "one that is silent takes the others along"
            assert len(await backends(engine, 4)) == 4


async def test_a_statement_that_is_never_answered_ends_its_connection(postgres: PostgresServer) -> None:
    def give_up(*_arguments: object) -> None:
        """As the driver does after EVALFLEET_DATABASE_STATEMENT_SECONDS."""
        raise TimeoutError

    async with opened(postgres.new_database(), postgres.port) as engine:
        before = await backend(engine)
        event.listen(engine.sync_engine, "do_execute", give_up)
        async with engine.connect() as connection:
            with pytest.raises(TimeoutError):
                await connection.execute(text("SELECT 1"))
            assert connection.invalidated
        event.remove(engine.sync_engine, "do_execute", give_up)
        assert await backend(engine) != before


async def test_the_kernel_looks_after_connections_to_other_machines(postgres: PostgresServer) -> None:
    async with opened(postgres.new_database(), postgres.port) as engine, engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        end = driver._transport.get_extra_info("socket")
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
