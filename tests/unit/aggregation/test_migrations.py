"""The ledger's schema: from nothing, again, half made, and from the future."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.aggregation import text_moving
from services.aggregation.errors import TextsMovingError
from services.aggregation.ledger import MIGRATIONS, ResultFilter, SqlLedger, open_ledger
from services.aggregation.records import AppendCounts, Result, Scored
from services.aggregation.retention import Pruned, PrunePolicy
from services.aggregation.schema import METADATA
from services.aggregation.texts import pack
from services.runtime.database import open_database, sqlite_url
from services.runtime.errors import StartupError

ResultFactory = Callable[..., Result]
_OLD_ROW: dict[str, object] = {
    "run_id": 1, "task": "t", "sample": 0, "failure_reason": None, "draw_index": 3, "is_truncated": False,
    "prompt_tokens": 5, "completion_tokens": 7, "engine_nanoseconds": 9, "complete_microseconds": None,
    "metrics": '{"acc":1.0}', "counted_as": None, "item_groups": "{}", "failure_message": None, "judges": "[]",
    "model_digest": "d", "prompt": "", "output": "", "extracted_answer": None,
}  # fmt: skip


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
    alembic.command.upgrade(_config(connection), revision)


def _downgrade_to(connection: Connection, revision: str) -> None:
    alembic.command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_results_of_the_oldest_ledger_read_as_they_were(
    tmp_path: Path, result: ResultFactory, monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool
) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    shared, own = "Few-shot examples. " * 30, "«Grüße» \0 🙂" * 40
    texts = [(shared, f"{own}{number}", None if number % 2 else own) for number in range(1200)]
    texts[7], texts[8] = ("", "", ""), ("short", "x", "x")
    rows = [
        _OLD_ROW | {"item": f"{number:04}", "prompt": prompt, "output": output, "extracted_answer": answer}
        for number, (prompt, output, answer) in enumerate(texts)
    ]
    await _oldest(url, rows)
    if is_interrupted:
        with monkeypatch.context() as broken:
            broken.setattr("services.aggregation.text_moving.pack", _fail_after(700, pack))
            async with open_ledger(url) as ledger:
                with pytest.raises(RuntimeError):
                    await ledger.move_texts()
                assert await _read(ledger) == texts
                with pytest.raises(TextsMovingError):
                    await ledger.prune(PrunePolicy())
        assert await _count(url, "SELECT count(*) FROM results WHERE output = ''") == 599
    async with open_ledger(url) as ledger:
        assert await _read(ledger) == texts
        # They go through all results, which no start waits for.
        assert await _count(url, _TEXT_INDEXES) == 0
        assert await ledger.move_texts() == (600 if is_interrupted else 1198)
        assert await ledger.move_texts() == 0
        assert await ledger.prune(PrunePolicy()) == Pruned()
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


_TEXT_INDEXES = "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix_results_%_id'"


async def test_a_piece_of_large_texts_holds_few_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    await _oldest(url, [_OLD_ROW | {"item": f"{n}", "output": f"{n}" * 1000} for n in range(9)])
    pieces: list[int] = []
    prepare = text_moving._prepared

    def prepared(rows: Sequence[Row[Any]]) -> text_moving._Piece:
        pieces.append(len(rows))
        return prepare(rows)

    monkeypatch.setattr(text_moving, "_prepared", prepared)
    async with open_ledger(url) as ledger:
        monkeypatch.setattr(text_moving, "_CHARACTERS_A_TRANSACTION", 4500)
        assert await ledger.move_texts() == 9
        assert pieces == [4, 4, 1]
        assert [output for _, output, _ in await _read(ledger)] == [f"{n}" * 1000 for n in range(9)]


async def test_one_text_beyond_the_bound_is_moved_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    await _oldest(url, [_OLD_ROW | {"item": f"{n}", "output": f"{n}" * 1000} for n in range(3)])
    monkeypatch.setattr(text_moving, "_CHARACTERS_A_TRANSACTION", 10)
    async with open_ledger(url) as ledger:
        assert await ledger.move_texts() == 3


async def test_a_downgrade_forgets_no_text_that_is_still_to_be_moved(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    await _oldest(url, [_OLD_ROW | {"item": "a", "output": "x" * 1000}])
    engine = await open_database(url, migrations=MIGRATIONS)
    async with engine.begin() as connection:
        await connection.run_sync(_downgrade_to, "0007")
    await engine.dispose()
    async with open_ledger(url) as ledger:
        assert await ledger.move_texts() == 1


async def _read(ledger: SqlLedger) -> list[tuple[str, str, str | None]]:
    async with aclosing(ledger.results("runs/old", ResultFilter(), 10**6)) as pieces:
        found = [each async for piece in pieces for each in piece]
    return [
        (each.prompt, each.output, each.outcome.extracted_answer if isinstance(each.outcome, Scored) else None)
        for each in found
    ]


async def _count(url: str, query: str) -> int:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        count = int((await connection.execute(text(query))).scalar_one())
    await engine.dispose()
    return count


def _fail_after(count: int, packing: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    calls = itertools.count()

    def failing(content: bytes) -> bytes:
        if next(calls) == count:
            raise RuntimeError("killed")
        return packing(content)

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
