"""What the evaluation service says of rankings, as plain values."""

import enum
from dataclasses import dataclass
from datetime import datetime

from evalfleet.goals import Budget, Spend, StopReason
from evalfleet.results import RunState


class Standing(enum.StrEnum):
    """What is known of a contender; one that this version does not know is CONTENDING.

    TIED is none of the best that are named, and better than none of them by more than the tolerance.
    """

    CONTENDING = "contending"
    TOP = "top"
    OUT = "out"
    NOT_INFERIOR = "not_inferior"
    INFERIOR = "inferior"
    BASE = "base"
    TIED = "tied"


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of a ranking.

    Attributes:
        run: its results are booked under this run, which is listed once the ranking has ended.
        decided_after: items after which its standing was known; None before.
        value: estimate of its mean over all items; None before the first look.
        interval: of that mean; those of all contenders hold together, whenever one looks.
        difference: with a margin its mean minus the base's; None for the base and before the first look.
        evaluated_count: items that have a result.
    """

    model: str
    run: str
    standing: Standing
    decided_after: int | None
    value: float | None
    interval: tuple[float, float] | None
    difference: tuple[float, float] | None
    evaluated_count: int


@dataclass(frozen=True, slots=True)
class RankedRun:
    """A run beside others on the items that they were asked in common; see ``Contender``.

    ``completed_count`` are the items that count: the longest prefix of the common order of which it has every one.
    """

    run: str
    standing: Standing
    decided_after: int | None
    value: float | None
    interval: tuple[float, float] | None
    difference: tuple[float, float] | None
    completed_count: int
    evaluated_count: int


@dataclass(frozen=True, slots=True)
class RankedRuns:
    """What runs decide beside each other.

    Attributes:
        runs: in the order in which they were named.
        compared_count: items of the common order that were judged.
        item_count: items of the task.
        is_decided: nothing is open any more.
    """

    runs: tuple[RankedRun, ...]
    compared_count: int
    item_count: int
    is_decided: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several models on one task.

    Attributes:
        top: how many of the best are wanted; None where the question is a margin.
        margin: how much worse than the first model each other may be; None where the best are wanted.
        tolerance: how much worse than others those may be that are named the best; 0: not at all.
        contenders: in the order in which they were named.
        failure: why it failed; empty if it did not.
        is_decided: nothing is open any more.
        item_count: items of the task; None until the data set has been read.
        compared_count: items of the common order that were judged.
    """

    name: str
    suite: str
    task: str
    metric: str
    lower_is_better: bool
    top: int | None
    margin: float | None
    confidence: float
    contenders: tuple[Contender, ...]
    state: RunState
    failure: str
    stop_reason: StopReason
    is_decided: bool
    item_count: int | None
    compared_count: int
    budget: Budget
    spend: Spend
    create_time: datetime | None
    tolerance: float = 0.0

    @property
    def in_order(self) -> tuple[Contender, ...]:
        """The contenders, the best first: those that are in by their estimates, then the others, the last out first."""

        def place(contender: Contender) -> tuple[int, int, float]:
            value = contender.value if contender.value is not None else 0.0
            is_out = contender.standing is Standing.OUT
            after = contender.decided_after or 0
            rank = 2 if is_out else 1 if contender.standing is Standing.TIED else 0
            return rank, -after if is_out else 0, value if self.lower_is_better else -value

        return tuple(sorted(self.contenders, key=place))

    @property
    def asked_count(self) -> int:
        """Items that all contenders were asked."""
        return sum(each.evaluated_count for each in self.contenders)

    @property
    def full_count(self) -> int:
        """Items that full runs of all contenders would ask; 0 until the data set has been read."""
        return (self.item_count or 0) * len(self.contenders)
