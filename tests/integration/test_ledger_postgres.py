"""The ledger in a real PostgreSQL, shared by replicas: one outcome a key, none under a lease that was lost."""

import asyncio
import itertools
import random
import sys
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.aggregation import text_moving
from services.aggregation.errors import (
    InvalidResultError,
    LeaseLostError,
    LedgerUnavailableError,
    PruneInProgressError,
    TextsMovingError,
)
from services.aggregation.ledger import MIGRATIONS, ResultFilter, SqlLedger, open_ledger
from services.aggregation.records import AppendCounts, Cost, Failed, Judge, Result, ResultKey, RunLease, Scored
from services.aggregation.retention import Pruned, PrunePolicy, Pruner
from services.aggregation.rows import ROW_COLUMNS, values_of
from services.aggregation.schema import METADATA, RESULTS
from services.aggregation.texts import pack
from services.runtime.database import DatabaseUse, database_url, open_database
from services.runtime.database_engine import PoolLimits
from services.runtime.database_settings import DatabaseSettings
from services.runtime.errors import FleetError, StartupError
from services.standalone.postgres_server import PostgresServer, running_postgres
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

LONG = "What is 17 + 25? " * 40


def result(item: str, *, run: str = "runs/r", **fields: Any) -> Result:
    given: dict[str, Any] = {
        "outcome": Scored({"acc": 1.0}), "groups": {}, "draw_index": 0, "cost": Cost(), "judges": (),
        "model_digest": "", "prompt": "", "output": "", "complete_microseconds": None, "is_truncated": False,
    }  # fmt: skip
    return Result(run=run, key=ResultKey("t", item, 0), **(given | fields))


async def read(ledger: SqlLedger, run: str = "runs/r") -> list[Result]:
    async with aclosing(ledger.results(run, ResultFilter(), 10**6)) as pieces:
        return [each async for piece in pieces for each in piece]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return database_url(postgres.new_database())


async def test_a_row_that_postgres_refuses_for_good_takes_no_neighbour_along(url: str) -> None:
    # No index has an entry so large, which cannot be compressed.
    refused = result("".join(map(chr, random.Random(0).sample(range(0x4E00, 0x9F00), 1000))))
    async with open_ledger(url) as ledger:
        batches = [[result(str(number))] for number in range(4)]
        batches.insert(2, [result("beside"), refused])
        done = await asyncio.gather(*map(ledger.append, batches), return_exceptions=True)
        assert [each for each in done if each != AppendCounts(1, 0)] == [done[2]]
        assert isinstance(done[2], InvalidResultError)
        assert "index row size" in done[2].message
        assert [each.key.item for each in await read(ledger)] == ["0", "1", "2", "3"]


async def test_the_fewest_connections_are_enough_beside_the_mover_and_the_pruner(url: str) -> None:
    [fewest] = [each.ge for each in DatabaseSettings.model_fields["database_connections"].metadata]
    limits = PoolLimits(connections=fewest, wait_seconds=5.0)
    async with (
        open_ledger(url, DatabaseUse(limits=limits)) as ledger,
        ledger._mover._turn(),
        ledger._pruner._alone(),
        # What each of them works with.
        ledger._engine.connect(),
        ledger._engine.connect(),
    ):
        assert await ledger.append([result("a")]) == AppendCounts(1, 0)


@pytest.mark.parametrize("is_long", [False, True])
async def test_gives_back_what_it_took_in_the_order_of_code_points(url: str, *, is_long: bool) -> None:
    full = result(
        "a",
        outcome=Scored({"acc": 1 / 3, "f1": 1.0}, extracted_answer="\x1a0\0"),
        groups={"label": "harmful\0", "": "x"},
        draw_index=2**62,
        cost=Cost(3, 4, 5),
        judges=(Judge("scorers/x", "1", "ab"), Judge("guards/y", "", "")),
        model_digest="d",
        prompt="«Grüße»\n\0 🙂 \x1a1 \x1a",
        output="\u2028",
        complete_microseconds=-5,
        is_truncated=True,
    )
    # Long texts are kept apart, as bytes.
    full = replace(full, prompt=full.prompt * 20, output="\0" * 300) if is_long else full
    others = [result(each, outcome=Failed("TIMEOUT", "late\0", {"acc": 0.0})) for each in ("B", "Z", "ä", "🙂")]
    async with open_ledger(url) as ledger:
        assert await ledger.append([full, *others]) == AppendCounts(5, 0)
        assert await read(ledger) == [*others[:2], full, *others[2:]]
        after = ResultFilter(after=ResultKey("t", "Z", 0))
        async with aclosing(ledger.keys("runs/r", after, 10)) as pieces:
            assert [each.key.item async for piece in pieces for each in piece] == ["a", "ä", "🙂"]


async def older_ledger(url: str, count: int) -> list[Result]:
    """Make a ledger as it was before there were texts, with so many results that have one; return these."""
    engine = create_async_engine(url, connect_args={"server_settings": {"search_path": "aggregation"}})
    sent = [
        result(
            f"{number:04}", prompt=f"{LONG}\0{number % 3}\x1a", output=f"{number}", outcome=Scored({"acc": 1.0}, "\0")
        )
        for number in range(count)
    ]
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA aggregation"))
        await connection.run_sync(_upgrade_to, "0004")
        await connection.execute(text("INSERT INTO runs (run_id, name) VALUES (1, 'runs/r')"))
        later = {"metric_failures", "targets"}
        old = [name for name in ROW_COLUMNS if not name.endswith("_id") and name not in later]
        statement = text(
            f"INSERT INTO results (run_id, {', '.join(old)}) VALUES (1, {', '.join(f':{name}' for name in old)})"
        ).bindparams(*(bindparam(name, type_=RESULTS.c[name].type) for name in old))
        rows = []
        for each in sent:
            row = dict(zip(ROW_COLUMNS, values_of(replace(each, prompt=""), {}), strict=True))
            rows.append({name: row[name] for name in old} | {"prompt": each.prompt})
        await connection.execute(statement, rows)
        # The sequence does not know of it.
        await connection.execute(text("SELECT setval(pg_get_serial_sequence('runs', 'run_id'), 1)"))
    await engine.dispose()
    return sent


async def test_long_texts_of_an_older_ledger_are_moved_while_it_is_read(url: str, postgres: PostgresServer) -> None:
    sent = await older_ledger(url, 500)
    plain = url.replace("+asyncpg", "")
    async with open_ledger(url) as ledger:
        assert await read(ledger) == sent
        with pytest.raises(TextsMovingError):
            await ledger.prune(PrunePolicy())
        # As a process leaves it that was killed while it made it.
        postgres.query(plain, "CREATE INDEX ix_results_output_id ON aggregation.results (sample)")
        which = "indexrelid = 'aggregation.ix_results_output_id'::regclass"
        postgres.query(plain, f"UPDATE pg_index SET indisvalid = false WHERE {which}")
        assert await ledger.move_texts() == 500
        assert await read(ledger) == sent
        assert await ledger.prune(PrunePolicy()) == Pruned()
    found = postgres.query(plain, "SELECT count(*) AS texts FROM aggregation.texts")
    assert found == [{"texts": "3"}]
    engine = await open_database(url, migrations=MIGRATIONS, schema="aggregation")
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    await engine.dispose()


_MOVING_UNTIL_KILLED = """
import asyncio, sys
from services.aggregation import text_moving
from services.aggregation.ledger import open_ledger

write_texts, calls = text_moving.write_texts, []

async def stuck(*given):
    calls.append(given)
    if len(calls) == 5:
        print("in the middle", flush=True)
        await asyncio.Event().wait()
    return await write_texts(*given)

async def main():
    text_moving.write_texts = stuck
    async with open_ledger(sys.argv[1]) as ledger:
        await ledger.move_texts()

asyncio.run(main())
"""


async def test_a_kill_in_the_middle_of_moving_loses_one_piece_of_work_and_keeps_nobody_waiting(
    url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_moving, "_ASK_AGAIN_SECONDS", 0.05)
    sent = await older_ledger(url, 1500)
    mover = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MOVING_UNTIL_KILLED, url, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS), open_ledger(url) as ledger:
            assert mover.stdout is not None
            while b"in the middle" not in (line := await mover.stdout.readline()):
                assert line, "the mover ended"
            # Its transaction is open.
            assert await read(ledger) == sent
            new = result("new", run="runs/new", prompt=LONG + "new")
            assert await ledger.append([new, result("0000")]) == AppendCounts(1, 1)
            waiting = asyncio.create_task(ledger.move_texts())
            mover.kill()
            await mover.wait()
            assert await waiting == 1500 - 4 * 200
            assert await read(ledger) == sent
            assert await read(ledger, "runs/new") == [new]
    finally:
        if mover.returncode is None:
            mover.kill()
            await mover.wait()
    plain = url.replace("+asyncpg", "")
    left = "SELECT count(*) AS left FROM aggregation.results WHERE length(prompt) > 100"
    assert postgres.query(plain, left) == [{"left": "0"}]
    assert postgres.query(plain, "SELECT count(*) AS texts FROM aggregation.texts") == [{"texts": "4"}]


async def test_replicas_take_turns_at_moving_texts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_moving, "_ASK_AGAIN_SECONDS", 0.05)
    sent = await older_ledger(url, 500)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), open_ledger(url) as one, open_ledger(url) as other:
        moved = await asyncio.gather(one.move_texts(), other.move_texts())
        assert sum(moved) == 500
        assert await read(other) == sent


def _upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, revision)


async def test_replicas_that_append_the_same_texts_at_once_share_them(url: str) -> None:
    async with open_ledger(url) as one, open_ledger(url) as other:
        # In opposite orders, which would make transactions wait for each other in a circle.
        texts = [f"{LONG}{number}" for number in range(60)]
        appends = [
            ledger.append(
                [result(str(n), run=f"runs/{r}{turn}", prompt=each) for n, each in enumerate(texts[::direction])]
            )
            for turn in range(5)
            for r, ledger, direction in (("a", one, 1), ("b", other, -1))
        ]
        assert await asyncio.gather(*appends) == [AppendCounts(60, 0)] * 10
        assert [each.prompt for each in await read(one, "runs/b4")] == [
            texts[::-1][int(each.key.item)] for each in await read(one, "runs/b4")
        ]
        pruned = await one.prune(PrunePolicy(tuple(f"runs/a{turn}" for turn in range(5)), runs_have_ended=True))
        assert (pruned.result_count, pruned.text_count) == (300, 0)
        pruned = await other.prune(PrunePolicy(tuple(f"runs/b{turn}" for turn in range(5)), runs_have_ended=True))
        assert (pruned.result_count, pruned.text_count) == (300, 60)
        # Both remember ids of texts that are gone.
        await asyncio.gather(
            *(each.append([result(str(n), run="runs/c", prompt=texts[n])]) for n, each in enumerate((one, other)))
        )
        assert [each.prompt for each in await read(one, "runs/c")] == texts[:2]


async def test_one_replica_prunes_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def waiting(_pruner: Pruner, _policy: PrunePolicy) -> list[Any]:
        entered.set()
        await go_on.wait()
        return []

    async with open_ledger(url) as one, open_ledger(url) as other:
        with monkeypatch.context() as patched:
            patched.setattr(Pruner, "_doomed", waiting)
            first = asyncio.create_task(one.prune(PrunePolicy()))
            await entered.wait()
            with pytest.raises(PruneInProgressError):
                await other.prune(PrunePolicy())
            go_on.set()
            await first
        await other.append([result("a", prompt=LONG)])
        assert await other.prune(PrunePolicy(keep_text_days=1)) == Pruned()
        assert await one.prune(PrunePolicy(("runs/r",), runs_have_ended=True), dry_run=True) == Pruned(
            ("runs/r",), 1, 1, len(pack(LONG.encode()))
        )


async def test_replicas_that_start_together_migrate_once_and_make_what_the_code_expects(url: str) -> None:
    engines = await asyncio.gather(*(open_database(url, migrations=MIGRATIONS, schema="aggregation") for _ in range(4)))
    async with engines[0].connect() as connection:
        assert await connection.run_sync(_differences) == []
    for engine in engines:
        await engine.dispose()


def _differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), METADATA))


async def test_one_outcome_a_key_however_many_replicas_append_at_once(url: str) -> None:
    async with open_ledger(url) as one, open_ledger(url) as other:
        batches = [
            [result(str(index), run=f"runs/{index % 3}", output=str(start)) for index in range(start, start + 400)]
            for start in range(0, 2000, 200)
        ]
        appends = ((one, other)[turn % 2].append(batch) for turn, batch in enumerate(batches))
        total = sum(await asyncio.gather(*appends), AppendCounts())
        assert (total.appended, total.duplicates) == (2200, 1800)
        assert sum([len(await read(one, f"runs/{run}")) for run in range(3)]) == 2200


async def test_a_lease_that_was_lost_appends_nothing_at_any_replica(url: str) -> None:
    old, new = RunLease("runs/r", 1), RunLease("runs/r", 2)
    async with open_ledger(url) as one, open_ledger(url) as other:
        assert await one.append([result("a")], old) == AppendCounts(1, 0)
        assert await other.append([], new) == AppendCounts()
        with pytest.raises(LeaseLostError):
            await one.append([result("b")], old)
        assert await one.append([result("c")], new) == AppendCounts(1, 0)
        assert [each.key.item for each in await read(other)] == ["a", "c"]


async def test_leases_that_race_leave_nothing_behind_the_one_that_came_last(url: str) -> None:
    """Once a lease is acknowledged, the number of results under older ones stands still, whatever was in flight."""
    async with open_ledger(url) as one, open_ledger(url) as other:

        async def append_until_lost(epoch: int) -> None:
            """Append one result after the other; ends by LeaseLostError."""
            for index in itertools.count():
                await one.append([result(f"{epoch} {index}", output=str(epoch))], RunLease("runs/r", epoch))

        for epoch in range(1, 8):
            working = asyncio.create_task(append_until_lost(epoch))
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                while not any(each.output == str(epoch) for each in await _known(one)):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            await other.append([], RunLease("runs/r", epoch + 1))
            found = len(await read(other))
            with pytest.raises(LeaseLostError):
                await working
            assert len(await read(other)) == found


async def _known(ledger: SqlLedger) -> list[Result]:
    try:
        return await read(ledger)
    except FleetError:
        return []


async def test_a_server_that_restarts_loses_nothing_that_was_acknowledged() -> None:
    with running_postgres() as server:
        if server is None:
            pytest.skip("needs PostgreSQL")
        async with open_ledger(database_url(server.new_database())) as ledger:
            await ledger.append([result("a")])
            await asyncio.to_thread(server.kill)
            with pytest.raises(LedgerUnavailableError):
                await ledger.append([result("b")])
            assert not await ledger.is_ready()
            await asyncio.to_thread(server.start)
            assert await ledger.append([result("b")]) == AppendCounts(1, 0)
            assert [each.key.item for each in await read(ledger)] == ["a", "b"]


async def test_a_database_that_refuses_is_named_without_its_password(postgres: PostgresServer) -> None:
    url = postgres.url("missing").replace("evalfleet@", "evalfleet:hunter2@")
    with pytest.raises(StartupError, match="missing") as caught:
        async with open_ledger(database_url(url)):
            pass
    assert "hunter2" not in caught.value.message
