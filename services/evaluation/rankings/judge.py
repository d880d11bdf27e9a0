"""What a ranking needs of the aggregation service: who is in, who is out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.evaluation.rankings.record import Ranking, Span, Standing


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one run."""

    standing: Standing
    decided_after: int | None
    value: float | None
    span: Span
    difference: Span | None
    completed_count: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the runs decide, in the order of the ranking's contenders.

    Attributes:
        compared_count: items of the common order that were judged.
    """

    runs: Sequence[Judged]
    compared_count: int
    is_decided: bool


class Judge(Protocol):
    """The aggregation service."""

    async def judge(self, ranking: Ranking) -> Judgement:
        """Say what the results so far decide; all contenders have a drawing."""
        ...
