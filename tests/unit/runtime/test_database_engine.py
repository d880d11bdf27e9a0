"""How connections to PostgreSQL are opened, and which errors only say that it is away."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from asyncpg.exceptions import TargetServerAttributeNotMatched
from sqlalchemy.engine import make_url

from services.runtime import database_engine
from services.runtime.database_engine import PoolLimits, is_away, postgres_engine

Connect = Callable[[], Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when somebody sleeps."""
    time = SimpleNamespace(now=100.0)

    async def sleep(seconds: float) -> None:
        time.now += seconds

    monkeypatch.setattr(database_engine, "time", SimpleNamespace(monotonic=lambda: time.now))
    monkeypatch.setattr(database_engine, "asyncio", SimpleNamespace(sleep=sleep))
    # These connections have no sockets.
    monkeypatch.setattr(database_engine, "_notice_silence", lambda _connection: None)
    return time


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[BaseException | str]], Connect]:
    """A driver whose attempts end as told, the last of them again and again, and what opens connections with it."""

    def prepare(endings: Sequence[BaseException | str]) -> Connect:
        left = list(endings)

        async def connect(*_arguments: Any, **_options: Any) -> str:
            ending = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(ending, BaseException):
                raise ending
            return ending

        monkeypatch.setattr(asyncpg, "connect", connect)
        return partial(database_engine._PatientConnecting().connect, timeout=10.0)

    return prepare


async def test_a_server_that_restarts_quickly_is_waited_for(
    clock: SimpleNamespace, connecting: Callable[..., Connect]
) -> None:
    starting = asyncpg.CannotConnectNowError("the database system is starting up")
    connect = connecting([ConnectionRefusedError(), starting, TargetServerAttributeNotMatched(), "connection"])
    assert await connect() == "connection"
    assert clock.now < 101


async def test_a_longer_outage_costs_each_statement_one_attempt(
    clock: SimpleNamespace, connecting: Callable[..., Connect]
) -> None:
    connect = connecting([ConnectionRefusedError()])
    with pytest.raises(ConnectionRefusedError):
        await connect()
    waited = clock.now
    assert waited > 101
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert clock.now == waited


async def test_a_new_outage_is_waited_out_again(clock: SimpleNamespace, connecting: Callable[..., Connect]) -> None:
    connect = connecting([ConnectionRefusedError(), "first", ConnectionRefusedError(), "second"])
    assert await connect() == "first"
    clock.now += 3600
    assert await connect() == "second"


async def test_servers_are_tried_one_after_another_each_with_its_share_of_the_time(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, float]] = []
    endings: dict[str, BaseException | str] = {"db-1": TimeoutError(), "db-2": "connection", "db-3": "never"}

    async def open_one(*, host: str, port: int, timeout: float) -> str:  # noqa: ASYNC109 - the driver's name for it
        asked.append((host, port, timeout))
        ending = endings[host]
        if isinstance(ending, TimeoutError):
            clock.now += timeout
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(asyncpg, "connect", open_one)
    connect = partial(
        database_engine._PatientConnecting().connect, host=["db-1", "db-2", "db-3"], port=[1, 2, 3], timeout=6.0
    )
    assert await connect() == "connection"
    assert asked == [("db-1", 1, 2.0), ("db-2", 2, 2.0)]
    asked.clear()
    assert await connect() == "connection"
    assert [host for host, *_ in asked] == ["db-2"], "a server that was silent is not asked first again"
    endings |= {"db-2": TimeoutError(), "db-3": TargetServerAttributeNotMatched()}
    with pytest.raises(TimeoutError):
        await connect()
    assert clock.now == 100 + 2 + 4, "the first round was as long as the first moments of an outage"
    asked.clear()
    endings["db-3"] = "promoted"
    assert await connect() == "promoted"
    assert [host for host, *_ in asked] == ["db-3"]


async def test_a_server_that_refuses_us_is_asked_once(
    clock: SimpleNamespace, connecting: Callable[..., Connect]
) -> None:
    connect = connecting([asyncpg.InvalidPasswordError("no"), "never"])
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect()
    assert clock.now == 100.0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(), True),
        (TargetServerAttributeNotMatched(), True),
        (asyncpg.AdminShutdownError("stopping"), True),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), True),
        (asyncpg.UniqueViolationError("there already"), False),
        (asyncpg.InvalidCatalogNameError("no such database"), False),
    ],
)
def test_away_is_not_refusing(error: BaseException, *, expected: bool) -> None:
    assert is_away(error) is expected


@pytest.mark.parametrize(("connections", "kept", "more"), [(15, 5, 10), (3, 3, 0)])
async def test_the_pool_is_as_large_as_it_was_told(connections: int, kept: int, more: int) -> None:
    limits = PoolLimits(connections=connections, wait_seconds=2.5)
    engine = postgres_engine(make_url("postgresql+asyncpg://me@nowhere/db"), "aggregation", limits)
    pool: Any = engine.pool
    assert (pool.size(), pool._max_overflow, pool.timeout()) == (kept, more, 2.5)
    await asyncio.wait_for(engine.dispose(), 5)
