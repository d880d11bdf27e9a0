import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime.log_files import bound, keep_bounded, set_aside
from tests.patience import LONGEST_WAIT_SECONDS


def pieces(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir())}


def test_a_log_within_its_share_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    bound(log, 400)
    log.write_bytes(b"x" * 100)
    bound(log, 400)
    assert pieces(tmp_path) == {"a.log": b"x" * 100}


def test_a_writer_goes_on_in_the_same_file_and_the_oldest_piece_goes(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        for round_ in b"12345":
            writer.write(bytes([round_]) * 101)
            bound(log, 400)
        writer.write(b"now")
    assert pieces(tmp_path) == {
        "a.log": b"now",
        "a.log.1": b"5" * 101,
        "a.log.2": b"4" * 101,
        "a.log.3": b"3" * 101,
    }


def test_a_burst_costs_the_older_pieces(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for size in (150, 150, 5000):
        log.write_bytes(b"x" * size)
        bound(log, 400)
    assert {name: len(text) for name, text in pieces(tmp_path).items()} == {"a.log": 0, "a.log.1": 5000}


@settings(deadline=None)
@given(st.lists(st.integers(0, 90), max_size=60))
def test_all_pieces_together_stay_within_the_bound(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("logs")
    written = b""
    for number, size in enumerate(sizes):
        text = bytes([97 + number % 26]) * size
        with (folder / "a.log").open("ab") as writer:
            writer.write(text)
        written += text
        bound(folder / "a.log", 400)
        kept = pieces(folder)
        assert sum(map(len, kept.values())) <= 400 + 100
        # What is kept is the end of what was written, without a gap.
        assert written.endswith(b"".join(kept[name] for name in sorted(kept, reverse=True)))


def test_the_log_of_a_process_that_has_ended_becomes_a_piece(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    set_aside(log)
    for text in ("old", "new"):
        log.write_text(text)
        set_aside(log)
    assert pieces(tmp_path) == {"a.log.1": b"new", "a.log.2": b"old"}


async def test_logs_are_looked_after_until_cancelled_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, failures = tmp_path / "a.log", 0
    real = os.truncate

    def truncate(path: Path, length: int) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise OSError("no space left")
        real(path, length)

    monkeypatch.setattr("services.runtime.log_files.os.truncate", truncate)
    log.write_bytes(b"x" * 101)
    keeping = asyncio.create_task(keep_bounded([tmp_path / "none.log", log], 400, interval_seconds=0.01))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while log.stat().st_size:  # noqa: ASYNC110 - a file sends no events
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert failures == 2
    await asyncio.wait([keeping])
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 101
