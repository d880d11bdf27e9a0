"""What a run needs of the aggregation service to have its items drawn there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.evaluation.items import InvalidItem, Item
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.gates import TaskQuestions


@dataclass(frozen=True, slots=True)
class DrawingRequest:
    """One task of one run whose items are to be drawn; see ``DrawingSpec`` in drawing.proto."""

    run: str
    seed: int
    model: str
    model_digest: str
    data_digest: str
    sample_count: int
    uses_history: bool
    earlier_runs: tuple[str, ...]
    previous_run: str
    questions: TaskQuestions


@dataclass(frozen=True, slots=True)
class Draw:
    """One drawn item: its place in the canonical order, and its place in the order of draws."""

    position: int
    item_id: str
    draw_index: int


@dataclass(frozen=True, slots=True)
class DrawnBlock:
    """The next items of a task.

    Attributes:
        is_exhausted: every item is drawn, and ``draws`` has the last of them.
        awaited_count: set, with no draws, where the next ones depend on the results of all draws below this index.
    """

    draws: Sequence[Draw]
    is_exhausted: bool
    awaited_count: int | None
    decision: TaskDecision


class Drawings(Protocol):
    """The drawings of the aggregation service; every method may be repeated."""

    async def create(self, request: DrawingRequest, item_ids: Iterable[str]) -> None:
        """Fix the order of a task's items, named in canonical order; the same request again changes nothing."""
        ...

    async def draw(self, run: str, task: str, first_draw_index: int, count: int) -> DrawnBlock:
        """Up to ``count`` draws from an index on; the same index gives the same draws."""
        ...

    async def decisions(self, run: str) -> Sequence[TaskDecision]:
        """What is decided about each drawn task."""
        ...


class Population(Protocol):
    """All items of a task in an order that depends on its data alone."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def item(self, position: int) -> Item | InvalidItem:
        """Render one."""
        ...

    def item_ids(self) -> Iterable[str]:
        """All ids, in order, without rendering."""
        ...
