"""What a request has cost at the engines so far: what its caller owes if no result ever says so."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from types import TracebackType
from typing import Final, TypeAlias

from services.generation.requests import Usage
from services.runtime.errors import DeadlineExceededError, FleetError

OnLate: TypeAlias = Callable[[str, Usage], None]
"""Told of an engine and of what it computed after the bill was closed."""
_NOTHING: Final = Usage(0, 0, 0.0)


class Bill:
    """The costs of one request.

    Args:
        on_late: see ``OnLate``; ``None``: nobody is told.
    """

    __slots__ = ("_is_closed", "_on_late", "_works")

    def __init__(self, on_late: OnLate | None = None) -> None:
        self._on_late = on_late
        self._works: list[Work] = []
        self._is_closed = False

    def work(self, engine: str, least: Usage) -> "Work":
        """Return what stands on the bill for what an engine does inside the ``with`` block.

        Args:
            engine: who computes.
            least: what it costs at least, as long as the engine says nothing.
        """
        return Work(self, engine, least)

    def settle(self) -> None:
        """Close the bill: its result says what it cost."""
        self._is_closed, self._works, self._on_late = True, [], None

    def close(self) -> list[tuple[str, Usage]]:
        """Close the bill and return what was computed by which engine; nothing if it was closed before.

        What goes on all the same, because others wait for it as well, is told to ``on_late`` when it ends.
        """
        works, self._works = self._works, []
        self._is_closed = True
        return [(work.engine, work.owed()) for work in works]

    def begun(self, work: "Work") -> None:
        """Put work on the bill."""
        if not self._is_closed:
            self._works.append(work)

    def withdraw(self, work: "Work") -> None:
        """Take work off the bill: its engine refused or failed it."""
        if work in self._works:
            self._works.remove(work)

    def told(self, work: "Work") -> None:
        """Pass on what work has cost since the bill was closed."""
        if self._is_closed and self._on_late is not None:
            self._on_late(work.engine, work.owed())


class Work(AbstractContextManager["Work"]):
    """One request to an engine; see ``Bill.work``."""

    __slots__ = ("_bill", "_billed", "_usage", "engine")

    def __init__(self, bill: Bill, engine: str, least: Usage) -> None:
        self.engine = engine
        self._bill = bill
        self._usage = least
        self._billed = _NOTHING

    def tell(self, usage: Usage) -> None:
        """Note what was computed by now, from the beginning on."""
        self._usage = usage
        self._bill.told(self)

    def owed(self) -> Usage:
        """Return what was computed since this was last asked."""
        owed = _beyond(self._usage, self._billed)
        self._billed = self._usage
        return owed

    def __enter__(self) -> "Work":
        self._bill.begun(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Out of time or given up, it was computed; what the engine refused or lost is not the caller's to pay.
        if isinstance(error, FleetError) and not isinstance(error, DeadlineExceededError):
            self._bill.withdraw(self)


def _beyond(usage: Usage, before: Usage) -> Usage:
    """Return what is new; what was estimated too high is nothing new."""
    if before is _NOTHING:
        return usage
    return Usage(*(max(0, getattr(usage, each.name) - getattr(before, each.name)) for each in fields(Usage)))
