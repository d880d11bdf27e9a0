"""Long texts are kept once and compressed, and come back as they were."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from services.aggregation.errors import InvalidResultError
from services.aggregation.ledger import ResultFilter, SqlLedger, open_ledger
from services.aggregation.records import AppendCounts, Failed, Result, Scored
from services.aggregation.texts import SHORTEST_KEPT_APART, StoredText, digest_of, pack, unpack
from services.runtime.database import sqlite_url

ResultFactory = Callable[..., Result]
LONG = "What is 17 + 25? " * 40
# Any character but halves of surrogate pairs, U+0000 and U+001A (PostgreSQL's escape) among them.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0\x1a01"), max_size=40)
REPEATED = st.builds(lambda each, times: each * times, TEXTS, st.sampled_from([1, 6, 40, 200]))


async def read(ledger: SqlLedger, run: str = "runs/r") -> list[Result]:
    async with aclosing(ledger.results(run, ResultFilter(), 10**6)) as pieces:
        return [each async for piece in pieces for each in piece]


async def table(folder: Path, statement: str) -> Sequence[Sequence[object]]:
    engine = create_async_engine(sqlite_url(folder / "ledger.sqlite"))
    async with engine.connect() as connection:
        found = (await connection.execute(text(statement))).all()
    await engine.dispose()
    return [tuple(row) for row in found]


@given(content=st.binary(max_size=600) | st.integers(0, 9000).map(lambda size: random.Random(size).randbytes(size)))
def test_packing_loses_nothing_and_never_adds_more_than_a_byte(content: bytes) -> None:
    written = content.hex()
    assert unpack(pack(written.encode())) == written
    assert len(pack(written.encode())) <= len(written) + 1


@settings(deadline=None, max_examples=40)
@example(texts=[("", "", "")])
@example(texts=[("\0" * SHORTEST_KEPT_APART, "é" * (SHORTEST_KEPT_APART // 2), None)])
@example(texts=[(LONG, LONG, LONG), (LONG, "", None)])
@given(texts=st.lists(st.tuples(REPEATED, REPEATED, st.none() | REPEATED), max_size=4))
def test_every_text_comes_back_unchanged(result: ResultFactory, texts: list[tuple[str, str, str | None]]) -> None:
    sent = [
        result(str(item), prompt=prompt, output=output, outcome=Scored({"acc": 1.0}, answer))
        for item, (prompt, output, answer) in enumerate(texts)
    ]

    async def check(folder: str) -> None:
        async with open_ledger(sqlite_url(Path(folder) / "ledger.sqlite")) as ledger:
            await ledger.append([*sent, result("short")])
            assert await ledger.append([*sent, result("short")]) == AppendCounts(0, len(sent) + 1)
            assert await read(ledger) == [*sent, result("short")]

    with TemporaryDirectory() as folder:
        asyncio.run(check(folder))


async def test_runs_that_ask_the_same_share_one_copy(tmp_path: Path, result: ResultFactory) -> None:
    url = sqlite_url(tmp_path / "ledger.sqlite")
    async with open_ledger(url) as one, open_ledger(url) as other:
        for ledger, run in ((one, "runs/a"), (other, "runs/b"), (one, "runs/c")):
            await ledger.append([result(str(item), run=run, prompt=LONG, output=f"{LONG}{run}") for item in range(5)])
        assert {each.prompt for each in await read(one, "runs/b")} == {LONG}
        assert {each.output for each in await read(other, "runs/c")} == {f"{LONG}runs/c"}
    assert await table(tmp_path, "SELECT count(*) FROM texts") == [(4,)]
    assert await table(tmp_path, "SELECT max(length(packed)) < 200, max(length(digest)) FROM texts") == [(1, 20)]
    assert await table(tmp_path, "SELECT max(length(prompt) + length(output)) FROM results") == [(0,)]


async def test_what_a_transaction_did_not_keep_is_not_remembered(tmp_path: Path, result: ResultFactory) -> None:
    async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")) as ledger:
        engine = create_async_engine(sqlite_url(tmp_path / "ledger.sqlite"))
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE results RENAME TO hidden"))
        with pytest.raises(Exception, match="took nothing"):
            await ledger.append([result("a", prompt=LONG)])
        async with engine.begin() as connection:
            await connection.execute(text("ALTER TABLE hidden RENAME TO results"))
        await engine.dispose()
        assert await ledger.append([result("a", prompt=LONG)]) == AppendCounts(1, 0)
        assert await read(ledger) == [result("a", prompt=LONG)]


@pytest.mark.parametrize("field", ["prompt", "output", "extracted_answer", "failure_message"])
@pytest.mark.parametrize("length", [1, 1000])
async def test_half_of_a_surrogate_pair_is_refused(
    ledger: SqlLedger, result: ResultFactory, field: str, length: int
) -> None:
    broken = "x" * (length - 1) + "\ud83d"
    match field:
        case "extracted_answer":
            bad = result("a", outcome=Scored({"acc": 1.0}, broken))
        case "failure_message":
            bad = result("a", outcome=Failed("TIMEOUT", broken))
        case _:
            bad = result("a", **{field: broken})
    with pytest.raises(InvalidResultError, match=r"U\+D83D") as caught:
        await ledger.append([result("b"), bad])
    assert [each.field for each in caught.value.field_violations] == [field]
    assert await ledger.append([result("b")]) == AppendCounts(1, 0)


def test_texts_are_told_apart_whether_or_not_they_are_there() -> None:
    short, other = StoredText(None, "7", None), StoredText(None, "8", None)
    kept, gone = StoredText(7, "", pack(LONG.encode()), b"d"), StoredText(7, "", None, b"d")
    assert len({each.content_key for each in (short, other, kept)}) == 3
    assert kept.content_key == gone.content_key
    assert (short.read(), kept.read(), gone.read()) == ("7", LONG, "")
    assert [each.is_pruned for each in (short, kept, gone)] == [False, False, True]


def test_a_text_is_known_for_the_same_wherever_it_is_kept() -> None:
    inline = StoredText(None, LONG, None)
    apart = StoredText(7, "", pack(LONG.encode()), digest_of(LONG.encode()))
    assert inline.content_key == apart.content_key != StoredText(None, LONG + "!", None).content_key
    with pytest.raises(ValueError, match="digest"):
        _ = StoredText(7, "", pack(LONG.encode())).content_key
