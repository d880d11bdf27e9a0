"""How services connect to a database: engines, their pools, and which errors say that it is only away."""

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import asyncpg
from asyncpg import InterfaceError, PostgresError
from asyncpg.exceptions import TargetServerAttributeNotMatched
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.runtime.sqlite_journal import bounded_journal

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError, InterfaceError, PostgresError, TargetServerAttributeNotMatched)
"""What a statement may raise when the database is away or refuses; connecting raises errors of the driver's own."""

RETRY_AFTER_SECONDS: Final = 1.0
"""What callers are told to wait while the database is away: a restart takes about as long."""

_RECONNECT_SECONDS: Final = 2.0
_RECONNECT_PAUSE_SECONDS: Final = 0.1
_KEPT_CONNECTIONS: Final = 5
_PING_SECONDS: Final = 3.0
_SOCKET_OPTIONS: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}
"""Of connections to a server: a machine that is gone without a word is noticed after 15 s, idle or asked (the last is
in milliseconds); where the system has them."""
_READ_ONLY: Final = "25006"
_SESSION: Final = {
    # A process that is stopped in the middle of a transaction must not keep its rows from the others for ever.
    "idle_in_transaction_session_timeout": "10s",
    # The same for a machine of ours that is gone without a word.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How a process uses PostgreSQL; a file knows none of these.

    Attributes:
        connections: most that are open at once.
        wait_seconds: how long a statement waits for one while all are in use.
        connect_seconds: longest time to open one; of several servers, each has its share of it.
        statement_seconds: longest statement; None: as long as it takes.
    """

    connections: int = 15
    wait_seconds: float = 30.0
    connect_seconds: float = 10.0
    statement_seconds: float | None = 120.0


def is_shared(engine: AsyncEngine) -> bool:
    """Whether other processes use the same database: PostgreSQL, but not a file."""
    return engine.dialect.name != "sqlite"


def postgres_engine(url: URL, schema: str, limits: PoolLimits) -> AsyncEngine:
    """Make an engine that connects to whichever of the URL's servers takes writes.

    Raises:
        ArgumentError: the URL cannot be used.
    """
    session = {**_SESSION, "application_name": f"evalfleet {schema}".rstrip()}
    if schema:
        session["search_path"] = schema
    engine = create_async_engine(
        url,
        pool_size=min(_KEPT_CONNECTIONS, limits.connections),
        max_overflow=max(0, limits.connections - _KEPT_CONNECTIONS),
        pool_timeout=limits.wait_seconds,
        connect_args={
            "async_creator_fn": _PatientConnecting().connect,
            "timeout": limits.connect_seconds,
            "command_timeout": limits.statement_seconds,
            # After a failover the address may lead to the standby for a while, where nothing could be written.
            "target_session_attrs": "read-write",
            "server_settings": session,
        },
    )
    event.listen(engine.sync_engine, "handle_error", _leave_bad_servers)
    _Pings().listen(engine)
    return engine


def tune_sqlite(engine: AsyncEngine, *, durable: bool, journal_pages: int) -> None:
    """Set what each connection to a file begins with; see ``open_database``."""

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            *bounded_journal(journal_pages),
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            "busy_timeout=10000",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's five-letter code of an error; empty if it has none."""
    return str(getattr(getattr(error, "orig", None) or error, "sqlstate", None) or "")


def is_away(error: BaseException) -> bool:
    """Whether an error says that the server is starting, stopping, a standby or not there, not that it refuses us."""
    if isinstance(error, OSError | TargetServerAttributeNotMatched):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # Class 57P: operator intervention (starting up, shutting down); class 08: connection exceptions.
    return sqlstate(error).startswith(("57P", "08", _READ_ONLY))


class _PatientConnecting:
    """Opens connections, again and again for the first moments of an outage.

    Nothing was sent yet, so this is safe whatever the statement: a server that restarts quickly is met by nobody.
    A longer outage costs each statement one attempt.
    """

    def __init__(self) -> None:
        self._away_since: float | None = None
        self._first = 0

    async def connect(self, **options: Any) -> Any:
        """Open a connection; the errors are the driver's."""
        began = time.monotonic()
        while True:
            try:
                connection = await self._open(**options)
            except DATABASE_ERRORS as error:
                self._away_since = self._away_since or began
                if not is_away(error) or time.monotonic() - self._away_since > _RECONNECT_SECONDS:
                    raise
                await asyncio.sleep(_RECONNECT_PAUSE_SECONDS)
            else:
                self._away_since = None
                return connection

    async def _open(self, *, timeout: float, **options: Any) -> Any:  # noqa: ASYNC109 - the driver's name for it
        """Try each server for its share of the time: the driver has one limit for all, which a silent one uses up.

        The one that was used last is the first, unless it was silent.
        """
        servers = _servers(options)
        away: BaseException | None = None
        for number in [*range(self._first, len(servers)), *range(self._first)]:
            try:
                connection = await asyncpg.connect(**servers[number], timeout=timeout / len(servers))
            except DATABASE_ERRORS as error:
                if not is_away(error):
                    raise
                if isinstance(error, TimeoutError) and self._first == number:
                    self._first = (number + 1) % len(servers)
                away = error
            else:
                self._first = number
                _notice_silence(connection)
                return connection
        assert away is not None
        raise away


def _servers(options: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the driver's options for each server that they name."""
    hosts, ports = options.get("host"), options.get("port")
    if not isinstance(hosts, list | tuple) or not isinstance(ports, list | tuple) or len(hosts) != len(ports):
        return [options]
    return [{**options, "host": host, "port": port} for host, port in zip(hosts, ports, strict=True)]


def _notice_silence(connection: Any) -> None:
    """Let the kernel end a connection whose other end is gone: the driver has no option for it."""
    end = connection._transport.get_extra_info("socket")
    if end is None or end.family not in (socket.AF_INET, socket.AF_INET6):
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Pings:
    """Replaces kept connections whose server has closed them, or is silent, before anybody meets them.

    SQLAlchemy's own ping waits as long as any statement may, and for each kept connection anew: here one that is dead
    takes the others along.
    """

    def __init__(self) -> None:
        self._kept: WeakSet[Any] = WeakSet()

    def listen(self, engine: AsyncEngine) -> None:
        """Look after an engine's connections."""
        event.listen(engine.sync_engine, "checkin", self._keep)
        event.listen(engine.sync_engine, "checkout", self._ping)

    def _keep(self, connection: Any, _record: object) -> None:
        if connection is not None:
            self._kept.add(connection.driver_connection)

    def _ping(self, connection: Any, _record: object, _fairy: object) -> None:
        driver = connection.driver_connection
        if driver not in self._kept:
            # It was opened just now.
            return
        self._kept.discard(driver)
        try:
            connection.run_async(lambda _: driver.execute("SELECT 1", timeout=_PING_SECONDS))
        except Exception as error:
            # Whatever it is: a driver that has read half of a farewell says that it is doing something else.
            for each in (driver, *self._kept):
                # A farewell would be waited for, too.
                each.terminate()
            self._kept.clear()
            raise InvalidatePoolError("the server has closed a connection, or is silent") from error


def _leave_bad_servers(context: ExceptionContext) -> None:
    """Close all connections to a server that has stopped taking writes or answering: the next may lead to another."""
    error = context.original_exception
    if isinstance(error, TimeoutError) or (error is not None and sqlstate(error) == _READ_ONLY):
        context.is_disconnect = True
