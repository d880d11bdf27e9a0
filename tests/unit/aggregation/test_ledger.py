"""The ledger: the first outcome stays, whoever sends it again, and however many send at once."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from services.aggregation.errors import LedgerUnavailableError
from services.aggregation.ledger import ResultFilter, SqlLedger, open_ledger
from services.aggregation.records import AppendCounts, Cost, Failed, Judge, MetricFailure, Result, ResultKey, Scored
from services.runtime.database import sqlite_url
from services.runtime.errors import NotFoundError

ResultFactory = Callable[..., Result]
EVERYTHING = ResultFilter()


async def read(
    ledger: SqlLedger, run: str = "runs/r", wanted: ResultFilter = EVERYTHING, limit: int = 10**6
) -> list[Result]:
    async with aclosing(ledger.results(run, wanted, limit)) as pieces:
        return [each async for piece in pieces for each in piece]


async def test_gives_back_what_it_took(ledger: SqlLedger, result: ResultFactory) -> None:
    full = result(
        "a",
        outcome=Scored({"acc": 1 / 3, "f1": 1.0}, extracted_answer=""),
        groups={"label": "harmful", "": "x"},
        draw_index=2**62,
        cost=Cost(3, 4, 5),
        judges=(Judge("scorers/x", "1", "ab"), Judge("guards/y", "", "")),
        model_digest="d",
        prompt="«Grüße»\n\0 🙂",
        output="\u2028",
        complete_microseconds=-5,
        is_truncated=True,
        targets=("4", 'four "\0 \x1a'),
    )
    bare = result("b", outcome=Failed("TIMEOUT", "late", {"acc": 0.0}))
    judge = MetricFailure(("passed", "agreement"), "JUDGE_UNPARSABLE", "«no\0» verdict")
    guard = MetricFailure(("unsafe",), "SAFETY_VERDICT_ERROR", "", {"unsafe": 1.0})
    unjudged = result("c", outcome=Scored({"acc": 1.0}, failures=(judge, guard)))
    lost = result("d", outcome=Failed("JUDGE_UNPARSABLE", "no verdict", {}, (judge,)))
    assert await ledger.append([full, bare, unjudged, lost]) == AppendCounts(4, 0)
    assert await read(ledger) == [full, bare, unjudged, lost]
    async with aclosing(ledger.observations("runs/r", None)) as observed:
        seen = [each.outcome.failures async for piece in observed for each in piece]
    assert seen == [(), (), (judge, guard), (judge,)]


async def test_the_first_outcome_stays(ledger: SqlLedger, result: ResultFactory, failed: Failed) -> None:
    first, second = result("a"), result("a", outcome=failed)
    assert await ledger.append([first]) == AppendCounts(1, 0)
    assert await ledger.append([second, result("b"), result("b", outcome=failed)]) == AppendCounts(1, 2)
    assert await read(ledger) == [first, result("b")]


async def test_every_part_of_the_key_counts(ledger: SqlLedger, result: ResultFactory) -> None:
    different = [result("a"), result("b"), result("a", task="u"), result("a", sample=1), result("a", run="runs/s")]
    assert await ledger.append(different) == AppendCounts(5, 0)
    assert await ledger.append(different) == AppendCounts(0, 5)


async def test_what_is_remembered_is_read_again_after_an_error(ledger: SqlLedger, result: ResultFactory) -> None:
    await ledger.append([result("a")])
    async with ledger._engine.begin() as connection:
        for table in ("results", "runs"):
            await connection.exec_driver_sql(f"DELETE FROM {table}")
    # A foreign key is violated, once.
    assert await ledger.append([result("b")]) == AppendCounts(1, 0)
    assert await read(ledger) == [result("b")]


async def test_the_journal_beside_the_ledger_stays_small_over_many_runs(
    tmp_path: Path, result: ResultFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.aggregation.writer._MOST_KNOWN_RUNS", 5)
    async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")) as ledger:
        for run in range(40):
            for item in range(10):
                prompt = random.Random(f"{run} {item}").randbytes(6000).hex()
                await ledger.append([result(str(item), run=f"runs/{run}", prompt=prompt)])
        assert await ledger.append([result("0", run="runs/0", prompt="p")]) == AppendCounts(0, 1)
        sizes = {each.name: each.stat().st_size for each in tmp_path.iterdir()}  # noqa: ASYNC240
    assert sizes["ledger.sqlite"] > 2 * 2**20
    assert sizes["ledger.sqlite-wal"] < 1.5 * 2**20


async def test_nothing_is_nothing(ledger: SqlLedger) -> None:
    assert await ledger.append([]) == AppendCounts()


async def test_an_unknown_run_suggests_the_nearest(ledger: SqlLedger, result: ResultFactory) -> None:
    await ledger.append([result("a", run="runs/step-1200")])
    with pytest.raises(NotFoundError) as caught:
        await read(ledger, "runs/step-1300")
    assert caught.value.metadata["nearest"] == "runs/step-1200"


async def test_keys_come_in_code_point_order_whatever_the_alphabet(ledger: SqlLedger, result: ResultFactory) -> None:
    items = ["a", "B", "ä", "z", "10", "9", "🙂", "\uffff", "a b"]
    await ledger.append([result(item) for item in items])
    async with aclosing(ledger.keys("runs/r", EVERYTHING, 100)) as pieces:
        assert [each.key.item async for piece in pieces for each in piece] == sorted(items)


async def test_failed_ones_are_those_too_of_which_a_metric_failed(ledger: SqlLedger, result: ResultFactory) -> None:
    unjudged = Scored({"acc": 1.0}, failures=(MetricFailure(("passed",), "JUDGE_UNPARSABLE"),))
    await ledger.append([result("a"), result("b", outcome=unjudged)])
    assert [each.key.item for each in await read(ledger, wanted=ResultFilter(failed_only=True))] == ["b"]


async def test_filters(ledger: SqlLedger, result: ResultFactory, failed: Failed) -> None:
    await ledger.append([result("a"), result("b", outcome=failed), result("a", task="u", outcome=failed)])
    assert [each.key.task for each in await read(ledger, wanted=ResultFilter(task="u"))] == ["u"]
    assert await read(ledger, wanted=ResultFilter(task="none")) == []
    only_failed = await read(ledger, wanted=ResultFilter(failed_only=True))
    assert [each.key for each in only_failed] == [ResultKey("t", "b", 0), ResultKey("u", "a", 0)]
    after = await read(ledger, wanted=ResultFilter(after=ResultKey("t", "a", 0)), limit=1)
    assert [each.key for each in after] == [ResultKey("t", "b", 0)]
    assert await read(ledger, wanted=ResultFilter(task="t", after=ResultKey("t", "b", 0))) == []


async def test_a_reader_that_stops_early_leaves_the_ledger_usable(ledger: SqlLedger, result: ResultFactory) -> None:
    await ledger.append([result(str(index)) for index in range(3000)])
    for _ in range(20):
        async with aclosing(ledger.keys("runs/r", EVERYTHING, 10**6)) as pieces:
            async for _piece in pieces:
                break
    assert await ledger.append([result("more")]) == AppendCounts(1, 0)


async def test_a_refused_transaction_stores_nothing_and_can_be_repeated(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as ledger:
        behind = create_async_engine(url)
        async with behind.begin() as connection:
            await connection.execute(text("ALTER TABLE results RENAME TO hidden"))
        with pytest.raises(LedgerUnavailableError) as caught:
            await ledger.append([result("a")])
        assert caught.value.code.name == "UNAVAILABLE"
        async with behind.begin() as connection:
            # The run's name was rolled back with the rest; the ledger must not believe that it knows it.
            assert (await connection.execute(text("SELECT count(*) FROM runs"))).scalar() == 0
            await connection.execute(text("ALTER TABLE hidden RENAME TO results"))
        await behind.dispose()
        assert await ledger.append([result("a")]) == AppendCounts(1, 0)
        assert await read(ledger) == [result("a")]


async def test_a_caller_that_gives_up_leaves_the_others_alone(ledger: SqlLedger, result: ResultFactory) -> None:
    appends = [asyncio.create_task(ledger.append([result(str(index))])) for index in range(40)]
    await asyncio.sleep(0)
    for task in appends[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert all(outcome == AppendCounts(1, 0) for outcome in outcomes[1::2])
    assert len(await read(ledger)) >= 20


async def test_readers_that_are_cancelled_at_any_moment_leave_the_ledger_usable(
    ledger: SqlLedger, result: ResultFactory
) -> None:
    await ledger.append([result(str(index)) for index in range(2500)])
    for turns in range(60):
        reading = asyncio.create_task(read(ledger))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await ledger.append([result("more")]) == AppendCounts(1, 0)
    assert len(await read(ledger)) == 2501


async def test_a_closed_ledger_refuses(tmp_path: Path, result: ResultFactory) -> None:
    async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")) as ledger:
        await ledger.append([result("a")])
    with pytest.raises(LedgerUnavailableError, match="closing"):
        await ledger.append([result("b")])


async def test_two_processes_worth_of_ledgers_share_one_file(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as one, open_ledger(url) as other:
        batches = [[result(str(index)) for index in range(start, start + 40)] for start in range(0, 200, 20)]
        counts = await asyncio.gather(*((one, other)[turn % 2].append(batch) for turn, batch in enumerate(batches)))
        total = sum(counts, AppendCounts())
        assert (total.appended, total.duplicates) == (220, 180)
        assert len(await read(one)) == 220


KEYS = st.tuples(
    st.sampled_from(["runs/r", "runs/s"]), st.sampled_from("tu"), st.sampled_from("abc"), st.integers(0, 1)
)
BATCHES = st.lists(st.lists(KEYS, max_size=8), max_size=4)


@settings(deadline=None, max_examples=25)
@given(streams=st.lists(BATCHES, min_size=1, max_size=4))
def test_one_outcome_a_key_under_concurrent_streams(
    result: ResultFactory, streams: Sequence[Sequence[Sequence[tuple[str, str, str, int]]]]
) -> None:
    """Whatever streams send at once, each key keeps one outcome: the first of one of the streams that sent it."""

    async def check(folder: str) -> None:
        sent: dict[tuple[str, str, str, int], set[str]] = {}

        async def send(ledger: SqlLedger, stream: int) -> AppendCounts:
            counts = AppendCounts()
            seen: set[tuple[str, str, str, int]] = set()
            for batch in streams[stream]:
                results = []
                for position, key in enumerate(batch):
                    run, task, item, sample = key
                    output = f"{stream}:{len(seen)}:{position}"
                    if key not in seen:
                        seen.add(key)
                        sent.setdefault(key, set()).add(output)
                    results.append(result(item, run=run, task=task, sample=sample, output=output))
                counts += await ledger.append(results)
            return counts

        async with open_ledger(sqlite_url(Path(folder) / "ledger.sqlite")) as ledger:
            counts = await asyncio.gather(*(send(ledger, stream) for stream in range(len(streams))))
            stored = {}
            for run in {key[0] for key in sent}:
                for each in await read(ledger, run):
                    stored[each.run, each.key.task, each.key.item, each.key.sample] = each.output
        assert stored.keys() == sent.keys()
        assert all(output in sent[key] for key, output in stored.items())
        total = sum(counts, AppendCounts())
        assert total.appended == len(sent)
        assert total.appended + total.duplicates == sum(len(batch) for stream in streams for batch in stream)

    with TemporaryDirectory() as folder:
        asyncio.run(check(folder))
