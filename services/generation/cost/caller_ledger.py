"""What each caller has cost, kept in the service's state folder."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

import structlog

from services.generation.requests import Usage
from services.runtime.errors import StartupError
from services.runtime.sqlite_journal import SMALL_PAGES, bounded_journal

FILE_NAME: Final = "caller_usage.sqlite3"
OTHERS: Final = "others"
"""The caller under which all are summed beyond the most that are told apart."""

_MOST_CALLERS: Final = 10_000
_WRITE_DELAY_SECONDS: Final = 0.2
_USAGE_COLUMNS: Final = tuple(each.name for each in fields(Usage))
_NUMBERS: Final = ("requests", "cached_requests", *_USAGE_COLUMNS)
_SCHEMA: Final = f"""CREATE TABLE IF NOT EXISTS caller_usage (
    caller TEXT PRIMARY KEY, first_seconds REAL NOT NULL, last_seconds REAL NOT NULL,
    {", ".join(f"{name} {'REAL' if name == 'engine_seconds' else 'INTEGER'} NOT NULL" for name in _NUMBERS)}
) WITHOUT ROWID"""
_ADD: Final = f"""INSERT INTO caller_usage (caller, first_seconds, last_seconds, {", ".join(_NUMBERS)})
VALUES (?, ?, ?, {", ".join("?" * len(_NUMBERS))}) ON CONFLICT (caller) DO UPDATE SET
last_seconds = excluded.last_seconds, {", ".join(f"{name} = {name} + excluded.{name}" for name in _NUMBERS)}"""
_READ: Final = f"SELECT caller, first_seconds, last_seconds, {', '.join(_NUMBERS)} FROM caller_usage"


@dataclass(frozen=True, slots=True)
class CallerUsage:
    """The sums of one caller; times are Unix seconds."""

    caller: str
    requests: int
    cached_requests: int
    usage: Usage
    first_seconds: float
    last_seconds: float


class CallerLedger:
    """Adds up what callers cost; sums survive restarts, and the death of the process takes a fraction of a second's.

    Args:
        folder: the service's state folder.
        most_callers: callers that are told apart; all further ones are summed under ``OTHERS``.
    """

    def __init__(self, folder: Path, *, most_callers: int = _MOST_CALLERS) -> None:
        self._path = folder / FILE_NAME
        self._most_callers = most_callers
        self._sums: dict[str, CallerUsage] = {}
        self._known: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="caller-ledger")
        self._writing: asyncio.Task[None] | None = None
        self._log: Any = structlog.get_logger(__name__)

    @classmethod
    async def open(cls, folder: Path, *, most_callers: int = _MOST_CALLERS) -> Self:
        """Open the file, making it if it is new.

        Raises:
            StartupError: it cannot be made or read.
        """
        ledger = cls(folder, most_callers=most_callers)
        try:
            await ledger._run(ledger._open)
        except (sqlite3.Error, OSError) as error:
            ledger._thread.shutdown(wait=False)
            raise StartupError(f"cannot keep callers' costs in {folder}: {error}; set EVALFLEET_STATE_DIR") from error
        return ledger

    def add(self, caller: str, usage: Usage, *, is_cached: bool, requests: int = 1) -> None:
        """Add a request, or 0 of them: what an earlier one cost in the end; it is written down soon after."""
        if caller not in self._known:
            if len(self._known) >= self._most_callers:
                caller = OTHERS
            self._known.add(caller)
        now = time.time()
        before = self._sums.get(caller)
        if before is None:
            self._sums[caller] = CallerUsage(caller, requests, int(is_cached), usage, now, now)
        else:
            self._sums[caller] = CallerUsage(
                caller,
                before.requests + requests,
                before.cached_requests + int(is_cached),
                before.usage + usage,
                before.first_seconds,
                now,
            )
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon(), name="caller ledger")

    async def callers(self) -> Sequence[CallerUsage]:
        """Return all callers with everything that was added so far."""
        await self._write_down()
        rows = await self._run(lambda: self._connection.execute(_READ).fetchall())
        return [
            CallerUsage(row[0], row[3], row[4], Usage(*row[5:]), first_seconds=row[1], last_seconds=row[2])
            for row in rows
        ]

    async def close(self) -> None:
        """Write down what was added and close the file."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._write_down()
        await self._run(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _write_soon(self) -> None:
        while self._sums:
            await asyncio.sleep(_WRITE_DELAY_SECONDS)
            await self._write_down()

    async def _write_down(self) -> None:
        sums, self._sums = self._sums, {}
        if not sums:
            return
        try:
            await asyncio.shield(asyncio.ensure_future(self._run(lambda: self._add(list(sums.values())))))
        except sqlite3.Error as error:
            # A full disk must not stop answers; what could not be added is in the log.
            self._log.error("caller_usage_lost", requests=sum(each.requests for each in sums.values()), exc_info=error)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0, check_same_thread=False)
        for pragma in (*bounded_journal(SMALL_PAGES), "synchronous=NORMAL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(_SCHEMA)
        self._known = {caller for (caller,) in self._connection.execute("SELECT caller FROM caller_usage")}

    def _add(self, sums: Sequence[CallerUsage]) -> None:
        rows = [
            (
                each.caller,
                each.first_seconds,
                each.last_seconds,
                each.requests,
                each.cached_requests,
                *(getattr(each.usage, name) for name in _USAGE_COLUMNS),
            )
            for each in sums
        ]
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_ADD, rows)

    async def _run(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
