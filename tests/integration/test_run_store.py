"""The list of runs in a file and in a real PostgreSQL: who may take which run, and what a lost lease may write."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.evaluation.errors import LeaseLostError, RunsUnavailableError
from services.evaluation.rankings.record import Contender, Ranking
from services.evaluation.rankings.store import METADATA as RANKINGS
from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.account_store import AccountStore
from services.evaluation.runs.accounts import Grant, Settlement
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.record import Run, RunState, TaskProgress
from services.evaluation.runs.store import Claim, RunStore
from services.evaluation.runs.tables import METADATA, RUNS
from services.runtime.database import database_url, open_database, sqlite_url
from services.runtime.errors import AlreadyExistsError
from services.standalone.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.integration

MIGRATIONS = Path(__file__).parents[2] / "services" / "evaluation" / "migrations"
LONG = 60.0
"""A lease that does not end within a test."""
OVER = -1.0
"""A lease that has ended already."""


async def opened(url: str) -> AsyncEngine:
    return await open_database(url, migrations=MIGRATIONS, schema="evaluation", durable=False)


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        made = await opened(sqlite_url(tmp_path / "runs.sqlite"))
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        made = await opened(database_url(postgres.new_database()))
    yield made
    await made.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> RunStore:
    return RunStore(engine)


def run(run_id: str, *, caller: str = "a", priority: int = 0, at: float = 1.0, request_id: str | None = None) -> Run:
    return Run(
        run_id, "demo", "s", "models/tiny", "m", seed=2**47, concurrency=4, create_time=at, caller=caller,
        priority=priority, request_id=request_id, tasks=("t",), progress=(TaskProgress("t"),),
    )  # fmt: skip


async def taken(store: RunStore, owner: str = "me", *, lease_seconds: float = LONG) -> Claim:
    claim = await store.claim(owner, lease_seconds=lease_seconds)
    assert claim is not None
    return claim


async def order(store: RunStore, count: int, *, ends_each: bool) -> list[str]:
    """The ids of the next runs to be taken; each is over before the next is taken, or none ever is."""
    ids = []
    for _ in range(count):
        claim = await taken(store)
        ids.append(claim.run.run_id)
        if ends_each:
            await store.save(dataclasses.replace(claim.run, state=RunState.SUCCEEDED), claim.epoch)
    return ids


async def test_migrations_make_the_table_that_the_code_expects(engine: AsyncEngine) -> None:
    expected = MetaData()
    for table in (*METADATA.tables.values(), *RANKINGS.tables.values()):
        table.to_metadata(expected)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), expected))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_gives_back_what_it_took(store: RunStore) -> None:
    mine = run("mine", priority=-3, request_id="r")
    await store.add(mine)
    assert await store.get("mine") == await store.find_request("r") == mine
    assert [mine] == await store.page(size=5) == await store.unfinished()
    for again in (run("mine"), run("other", request_id="r")):
        with pytest.raises(AlreadyExistsError):
            await store.add(again)


async def test_a_run_is_taken_once_until_its_lease_ends(store: RunStore) -> None:
    await store.add(run("r"))
    first = await taken(store, lease_seconds=OVER)
    assert (first.run.run_id, first.epoch) == ("r", 1)
    assert (await taken(store, "other")).epoch == 2
    assert await store.claim("third", lease_seconds=LONG) is None


async def test_many_replicas_at_once_take_every_run_once(store: RunStore) -> None:
    for index in range(40):
        await store.add(run(f"r{index}", caller=f"caller {index % 3}"))

    async def take_all(owner: str) -> list[str]:
        ids = []
        while (claim := await store.claim(owner, lease_seconds=LONG)) is not None:
            ids.append(claim.run.run_id)
        return ids

    # One that was passed over, since another was taking it, is found at the next look.
    takers = await asyncio.gather(*(take_all(f"replica {index}") for index in range(6)))
    found = [each for ids in takers for each in ids] + await take_all("last")
    assert sorted(found) == sorted(f"r{index}" for index in range(40))


async def test_callers_take_turns_however_many_runs_one_of_them_has(store: RunStore) -> None:
    for index in range(6):
        await store.add(run(f"a{index}", caller="a", at=float(index)))
    await store.add(run("b0", caller="b", at=10.0))
    await store.add(run("b1", caller="b", at=11.0))
    await store.add(run("c0", caller="c", at=12.0))
    assert await order(store, 9, ends_each=True) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


async def test_whoever_has_fewest_runs_in_work_comes_first(store: RunStore) -> None:
    for index in range(4):
        await store.add(run(f"a{index}", caller="a", at=float(index)))
    assert await order(store, 3, ends_each=False) == ["a0", "a1", "a2"]
    for index in range(3):
        await store.add(run(f"b{index}", caller="b", at=10.0 + index))
    assert await order(store, 4, ends_each=False) == ["b0", "b1", "b2", "a3"]


async def test_higher_priorities_come_first_and_what_was_begun_before_all(store: RunStore) -> None:
    await store.add(run("low", priority=-1, at=1.0))
    await store.add(run("plain", caller="b", at=2.0))
    await store.add(run("high", priority=5, at=3.0))
    await store.add(run("begun", priority=-100, caller="z", at=0.0))
    await store.add(run("higher", priority=6, caller="z", at=4.0))
    assert (await taken(store)).run.run_id == "higher"
    await store.cancel("higher")
    await store.cancel("high")
    await store.add(run("high again", priority=5, at=5.0))
    # Whoever had it has said nothing for longer than a lease.
    assert (await taken(store, lease_seconds=OVER)).run.run_id == "high again"
    assert await order(store, 4, ends_each=True) == ["high again", "plain", "low", "begun"]


async def test_a_lost_lease_writes_nothing(store: RunStore) -> None:
    await store.add(run("r"))
    old = await taken(store, lease_seconds=OVER)
    new = await taken(store, "other", lease_seconds=OVER)
    ended = dataclasses.replace(old.run, state=RunState.FAILED, progress=(TaskProgress("t", 5, 5),))
    with pytest.raises(LeaseLostError):
        await store.save(ended, old.epoch, lease_seconds=LONG)
    assert await store.get("r") == run("r")
    # A lease that has ended and that nobody has taken can still be prolonged.
    going = dataclasses.replace(new.run, state=RunState.RUNNING, start_time=3.5)
    await store.save(going, new.epoch, lease_seconds=LONG)
    assert await store.get("r") == going
    assert await store.claim("third", lease_seconds=LONG) is None


async def test_a_run_that_was_cancelled_elsewhere_is_lost_to_its_worker_and_stays_cancelled(store: RunStore) -> None:
    await store.add(run("r"))
    claim = await taken(store)
    progress = (TaskProgress("t", 9, 3, 1, "d"),)
    assert await store.cancel("r", progress) == claim.epoch + 1
    with pytest.raises(LeaseLostError):
        await store.save(dataclasses.replace(claim.run, state=RunState.SUCCEEDED), claim.epoch)
    found = await store.get("r")
    assert found is not None
    assert (found.state, found.progress) == (RunState.CANCELLED, progress)
    assert found.end_time is not None
    # Told again: whoever cancelled it may not have come to tell the ledger.
    assert await store.cancel("r") == claim.epoch + 1
    assert await store.claim("other", lease_seconds=LONG) is None


async def test_what_is_given_back_can_be_taken_at_once(store: RunStore) -> None:
    for run_id, owner in (("r0", "me"), ("r1", "other")):
        await store.add(run(run_id))
        await taken(store, owner)
    await store.give_back("me")
    assert (await taken(store)).run.run_id == "r0"
    assert await store.claim("third", lease_seconds=LONG) is None
    await store.give_back()
    assert {(await taken(store)).run.run_id, (await taken(store)).run.run_id} == {"r0", "r1"}


async def test_thousands_of_waiting_runs_are_taken_in_milliseconds(store: RunStore, engine: AsyncEngine) -> None:
    await store.add(run("r0", caller="caller 0", at=0.0))
    copied = ", ".join(column.name for column in RUNS.columns if column.name not in ("run_id", "caller", "create_time"))
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4999) "
    async with engine.begin() as connection:
        await connection.execute(
            text(
                f"INSERT INTO runs (run_id, caller, create_time, {copied}) {numbers}"
                f"SELECT 'r' || i, 'caller ' || (i % 50), i, {copied} FROM runs, n"
            )
        )
    loop = asyncio.get_running_loop()
    began = loop.time()
    callers = [(await taken(store)).run.caller for _ in range(50)]
    assert len(set(callers)) == 50
    assert loop.time() - began < 50 * 0.5


async def test_a_database_that_is_away_is_said_to_be_and_comes_back() -> None:
    with running_postgres() as server:
        if server is None:
            pytest.skip("needs PostgreSQL")
        engine = await opened(database_url(server.new_database()))
        store = RunStore(engine)
        await store.add(run("r"))
        claim = await taken(store)
        assert await store.is_ready()
        await asyncio.to_thread(server.kill)
        with pytest.raises(RunsUnavailableError):
            await store.get("r")
        with pytest.raises(RunsUnavailableError, match="list of runs"):
            await store.is_ready()
        await asyncio.to_thread(server.start)
        assert await store.get("r") == run("r")
        await store.save(claim.run, claim.epoch, lease_seconds=LONG)
        await engine.dispose()


async def test_replicas_that_book_at_once_never_reserve_more_than_the_day_has(engine: AsyncEngine) -> None:
    limit = Budget(items=30, engine_seconds=100.0)

    async def reserve(holder: str) -> list[Grant]:
        book, grants = AccountStore(engine, holder), []
        for _ in range(8):
            (answer,) = await book.book("team/a", limit, [Spend(1, 5, 1.5)], [])
            if isinstance(answer, Grant):
                grants.append(answer)
        return grants

    held = dict(zip("abcde", await asyncio.gather(*(reserve(holder) for holder in "abcde")), strict=True))
    assert sum(map(len, held.values())) == 30
    account = await AccountStore(engine, "x").read("team/a")
    assert (account.spent, account.reserved) == (Spend(), Spend(30, 150, 45.0))

    async def settle(holder: str, grants: list[Grant]) -> None:
        book = AccountStore(engine, holder)
        await book.renew()
        await book.book("team/a", limit, [], [Settlement(each, Spend(1, 6, 2.0)) for each in grants])

    await asyncio.gather(*(settle(holder, grants) for holder, grants in held.items()))
    account = await AccountStore(engine, "x").read("team/a")
    assert (account.spent, account.reserved) == (Spend(30, 180, 60.0), Spend())


def ranking(ranking_id: str, *, at: float = 1.0, request_id: str | None = None) -> Ranking:
    return Ranking(
        ranking_id, "demo", "s", "t", "acc", lower_is_better=False, top=1, margin=None, confidence=0.95, seed=2**47,
        concurrency=4, create_time=at, request_id=request_id,
        contenders=tuple(Contender(f"models/{name}", name, f"{ranking_id}-{name}") for name in "ab"),
    )  # fmt: skip


async def test_every_ranking_is_taken_once_the_oldest_first(engine: AsyncEngine) -> None:
    store = RankingStore(engine)
    for index in range(12):
        await store.add(ranking(f"k{index:02}", at=100.0 - index, request_id=f"r{index}"))
    with pytest.raises(AlreadyExistsError):
        await store.add(ranking("again", request_id="r3"))
    assert await store.find_request("r3") == await store.get("k03") == ranking("k03", at=97.0, request_id="r3")
    first = await store.claim("me", lease_seconds=LONG)
    assert first is not None
    assert (first.ranking.ranking_id, first.epoch) == ("k11", 1)

    async def take(owner: str) -> list[str]:
        found = []
        while (claim := await store.claim(owner, lease_seconds=LONG)) is not None:
            found.append(claim.ranking.ranking_id)
        return found

    taken = [
        each for found in await asyncio.gather(*(take(f"replica {index}") for index in range(4))) for each in found
    ]
    # Who looks while another takes the last one may find nothing; nobody takes what is taken.
    taken += await take("late")
    assert sorted(taken) == [f"k{index:02}" for index in range(11)]
    await store.give_back("me")
    again = await store.claim("other", lease_seconds=LONG)
    assert again is not None
    assert (again.ranking.ranking_id, again.epoch) == ("k11", 2)
    assert [each.ranking_id for each in await store.page(size=2)] == ["k00", "k01"]
    assert [each.ranking_id for each in await store.page(size=2, after=(99.0, "k01"))] == ["k02", "k03"]


async def test_a_ranking_that_was_lost_or_cancelled_is_not_written(engine: AsyncEngine) -> None:
    store = RankingStore(engine)
    await store.add(ranking("r"))
    slow = await store.claim("slow", lease_seconds=OVER)
    fast = await store.claim("fast", lease_seconds=LONG)
    assert slow is not None
    assert fast is not None
    with pytest.raises(LeaseLostError):
        await store.save(slow.ranking, slow.epoch)
    begun = dataclasses.replace(fast.ranking, state=RunState.RUNNING, start_time=2.0, item_count=7)
    await store.save(begun, fast.epoch, lease_seconds=LONG)
    assert await store.get("r") == begun
    assert await store.cancel("r") == fast.epoch + 1
    assert await store.cancel("r") is None
    with pytest.raises(LeaseLostError):
        await store.save(begun, fast.epoch, lease_seconds=LONG)
    kept = await store.get("r")
    assert kept is not None
    assert (kept.state, kept.item_count) == (RunState.CANCELLED, 7)
    assert await store.claim("third", lease_seconds=LONG) is None
