"""The ledger's schema: from nothing, again, half made, and from the future."""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.aggregation.ledger import MIGRATIONS, ResultFilter, open_ledger
from services.aggregation.records import AppendCounts, Result, Scored
from services.aggregation.schema import METADATA
from services.runtime.database import open_database, sqlite_url
from services.runtime.errors import StartupError

ResultFactory = Callable[..., Result]


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), METADATA))


async def test_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    engine = await open_database(sqlite_url(tmp_path / "new" / "ledger.sqlite"), migrations=MIGRATIONS)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_opening_again_changes_nothing(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as ledger:
        await ledger.append([result("a")])
    async with open_ledger(url) as ledger:
        assert await ledger.append([result("a"), result("b")]) == AppendCounts(1, 1)


async def _oldest(url: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Make a ledger as the first version left it, with these results."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade_to, "0001")
        await connection.execute(text("INSERT INTO runs (run_id, name) VALUES (1, 'runs/old')"))
        names = ", ".join(rows[0])
        values = ", ".join(f":{name}" for name in rows[0])
        await connection.execute(text(f"INSERT INTO results ({names}) VALUES ({values})"), rows)
    await engine.dispose()


def _upgrade_to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, revision)


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_results_of_the_oldest_ledger_read_as_they_were(
    tmp_path: Path, result: ResultFactory, monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool
) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    shared, own = "Few-shot examples. " * 30, "«Grüße» \0 🙂" * 40
    row = {
        "run_id": 1, "task": "t", "sample": 0, "failure_reason": None, "draw_index": 3, "is_truncated": False,
        "prompt_tokens": 5, "completion_tokens": 7, "engine_nanoseconds": 9, "complete_microseconds": None,
        "metrics": '{"acc":1.0}', "counted_as": None, "item_groups": "{}", "failure_message": None, "judges": "[]",
        "model_digest": "d",
    }  # fmt: skip
    texts = [(shared, f"{own}{number}", None if number % 2 else own) for number in range(1200)]
    texts[7], texts[8] = ("", "", ""), ("short", "x", "x")
    rows = [
        row | {"item": f"{number:04}", "prompt": prompt, "output": output, "extracted_answer": answer}
        for number, (prompt, output, answer) in enumerate(texts)
    ]
    await _oldest(url, rows)
    if is_interrupted:
        with monkeypatch.context() as broken:
            broken.setattr("zlib.compress", _fail_after(700, zlib.compress))
            with pytest.raises(RuntimeError):
                async with open_ledger(url):
                    pass
    async with open_ledger(url) as ledger, aclosing(ledger.results("runs/old", ResultFilter(), 10**6)) as pieces:
        found = [each async for piece in pieces for each in piece]
        assert await ledger.append([result("0003", run="runs/old")]) == AppendCounts(0, 1)
    outcomes = [each.outcome for each in found]
    answers = [each.extracted_answer for each in outcomes if isinstance(each, Scored)]
    assert [(each.prompt, each.output, answer) for each, answer in zip(found, answers, strict=True)] == texts
    assert {(each.draw_index, each.cost.computed_prompt_tokens, each.pruned_texts) for each in found} == {(3, 5, ())}
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM texts"))).scalar() == 1200
        assert (await connection.execute(text("SELECT max(length(output)) FROM results"))).scalar() == 1
        assert await connection.run_sync(differences) == []
    await engine.dispose()


def _fail_after(count: int, compress: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
    calls = itertools.count()

    def failing(content: bytes, level: int) -> bytes:
        if next(calls) == count:
            raise RuntimeError("killed")
        return compress(content, level)

    return failing


async def test_a_start_that_died_between_two_tables_is_finished(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE results"))
        await connection.execute(text("DELETE FROM alembic_version"))
    await engine.dispose()
    async with open_ledger(url) as ledger:
        assert await ledger.append([result("a")]) == AppendCounts(1, 0)


async def test_a_ledger_from_the_future_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(StartupError, match="newer") as caught:
        async with open_ledger(url):
            pass
    assert caught.value.reason == "DATABASE_TOO_NEW"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("I am a diary, not a database. " * 100)
    with pytest.raises(StartupError, match="not a database"):
        async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")):
            pass
