"""The accounts of callers: what each has spent on a day and what is reserved for its items in flight, everywhere."""

import datetime
import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from services.evaluation.runs.budget import Budget, Spend

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation that was made.

    Attributes:
        day: whose account it is in, ``2026-01-31`` (UTC).
        holding: which holding of this process; one that was written off has another.
        reserved: how much.
    """

    day: str
    holding: str
    reserved: Spend


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an item with a grant has cost; ``None``: it was cancelled and counts as what was reserved."""

    grant: Grant
    actual: Spend | None


class Refusal(enum.Enum):
    """Why nothing was reserved: it does not fit beside what is in flight, or not even without that."""

    LATER = "later"
    USED_UP = "used_up"


@dataclass(frozen=True, slots=True)
class DayAccount:
    """Where an account stands.

    Attributes:
        spent: by items that are done.
        reserved: for items in flight, of all runs at all replicas.
        seconds_left: until the day ends.
    """

    day: str
    spent: Spend
    reserved: Spend
    seconds_left: float


class AccountBook(Protocol):
    """Where accounts are kept, for all replicas together. Methods raise RunsUnavailableError while it is away."""

    async def book(
        self, caller: str, limit: Budget, asked: Sequence[Spend], settled: Sequence[Settlement]
    ) -> Sequence[Grant | Refusal]:
        """Settle some grants and reserve what is asked as far as it fits into today's limit, in one transaction.

        Returns:
            One answer to each of ``asked``.
        """
        ...

    async def read(self, caller: str) -> DayAccount:
        """Today's account of a caller."""
        ...

    async def renew(self) -> None:
        """Say that this process still holds its reservations; what a silent one holds is written off as spent."""
        ...

    async def write_off_earlier(self) -> None:
        """Write off what processes before this one held, where no other can be at work beside it."""
        ...


def answers_to(asked: Sequence[Spend], limit: Budget, spent: Spend, reserved: Spend) -> list[Refusal | None]:
    """Decide in their order which of ``asked`` fit; ``None`` are those that do."""
    answers: list[Refusal | None] = []
    for cost in asked:
        if not fits(limit, spent + cost):
            answers.append(Refusal.USED_UP)
        elif not fits(limit, spent + reserved + cost):
            answers.append(Refusal.LATER)
        else:
            reserved += cost
            answers.append(None)
    return answers


def fits(limit: Budget, spend: Spend) -> bool:
    """Whether so much may be spent."""
    limits = ((getattr(limit, each.name), getattr(spend, each.name)) for each in fields(Spend))
    return all(most is None or value <= most for most, value in limits)


def left_of(limit: Budget, spent: Spend) -> Budget:
    """What is left of a limit."""
    left = {
        each.name: None if (most := getattr(limit, each.name)) is None else max(0, most - getattr(spent, each.name))
        for each in fields(Spend)
    }
    return Budget(**left)


def used_up(limit: Budget, spent: Spend) -> tuple[str, ...]:
    """The quantities of which nothing is left."""
    return tuple(name for name in (each.name for each in fields(Spend)) if getattr(left_of(limit, spent), name) == 0)


def day_of(now: float) -> str:
    """The day (UTC) of a time in seconds since the epoch."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()


def seconds_left_of_day(now: float) -> float:
    """Seconds until the next day (UTC) begins."""
    return _DAY_SECONDS - now % _DAY_SECONDS
