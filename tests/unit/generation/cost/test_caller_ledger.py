from pathlib import Path

import pytest

from services.generation.cost.caller_ledger import OTHERS, CallerLedger
from services.generation.requests import Usage
from services.runtime.errors import StartupError

ONE = Usage(10, 5, 0.5, 8, 5, 2, 0, 1500)
CACHED = Usage(10, 5, 0.0, 0, 0, 0, 15, 0)


async def test_sums_survive_restarts(tmp_path: Path) -> None:
    for _ in range(2):
        ledger = await CallerLedger.open(tmp_path)
        ledger.add("a", ONE, is_cached=False)
        ledger.add("a", CACHED, is_cached=True)
        ledger.add("b", ONE, is_cached=False)
        await ledger.close()
    ledger = await CallerLedger.open(tmp_path)
    a, b = sorted(await ledger.callers(), key=lambda each: each.caller)
    assert (a.caller, a.requests, a.cached_requests) == ("a", 4, 2)
    assert a.usage == Usage(40, 20, 1.0, 16, 10, 4, 30, 3000)
    assert (b.requests, b.usage) == (2, ONE + ONE)
    assert 1.7e9 < a.first_seconds <= a.last_seconds
    await ledger.close()


async def test_what_was_just_added_is_listed(tmp_path: Path) -> None:
    ledger = await CallerLedger.open(tmp_path)
    assert await ledger.callers() == []
    ledger.add("a", ONE, is_cached=False)
    [only] = await ledger.callers()
    ledger.add("a", ONE, is_cached=False)
    [again] = await ledger.callers()
    assert (only.requests, again.requests) == (1, 2)
    assert again.first_seconds == only.first_seconds
    await ledger.close()


async def test_the_number_of_callers_is_bounded(tmp_path: Path) -> None:
    for _ in range(2):
        ledger = await CallerLedger.open(tmp_path, most_callers=3)
        for number in range(10):
            ledger.add(str(number), ONE, is_cached=False)
        sums = {each.caller: each.requests for each in await ledger.callers()}
        await ledger.close()
    assert sums == {"0": 2, "1": 2, "2": 2, OTHERS: 14}


async def test_the_journal_beside_the_sums_stays_small(tmp_path: Path) -> None:
    ledger = await CallerLedger.open(tmp_path)
    for number in range(300):
        ledger.add(f"caller-{number % 7}", ONE, is_cached=False)
        await ledger.callers()
    journal = tmp_path / "caller_usage.sqlite3-wal"
    assert 0 < journal.stat().st_size < 400_000
    await ledger.close()


async def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="EVALFLEET_STATE_DIR"):
        await CallerLedger.open(tmp_path / "file")
