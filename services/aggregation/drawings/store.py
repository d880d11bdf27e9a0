"""Where drawings are kept."""

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.aggregation.drawings.records import Batch, Drawing, DrawingSpec, PastResults
from services.aggregation.drawings.scores import SampleOutcome


@dataclass(frozen=True, slots=True)
class NewDrawing:
    """A drawing to be kept; see ``Drawing``."""

    spec: DrawingSpec
    item_ids: tuple[str, ...]
    order_seed: int
    order_digest: str
    past: PastResults | None
    create_microseconds: int


@dataclass(frozen=True, slots=True)
class EarlierDrawing:
    """A drawing that may serve as history, oldest first by ``drawing_id``."""

    drawing_id: int
    run: str
    task: str
    order_seed: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What was added to a drawing: batches in order, and how many items were handed out."""

    batches: tuple[Batch, ...]
    drawn_count: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a drawing expected of its items: ids and scores from 0 to 1, index-aligned."""

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]


class DrawingStore(Protocol):
    """Keeps drawings and their batches, and reads results of their items. Raises ``LedgerUnavailableError``."""

    async def tasks(self, run: str) -> list[str]:
        """Return the tasks of a run that have a drawing, in order; raises ``RunDeletedError``."""
        ...

    async def find(self, run: str, task: str) -> Drawing | None:
        """Return a task's drawing."""
        ...

    async def history(self, drawing: Drawing) -> PastResults | None:
        """Return a drawing's history as it was when it was created; raises ``LedgerReplacedError``."""
        ...

    async def create(self, new: NewDrawing) -> bool:
        """Keep a drawing unless its task has one; raises ``LateDrawingError`` if the task has results already."""
        ...

    async def progress(self, drawing: Drawing, from_batch: int) -> Progress:
        """Return the batches from ``from_batch`` on; raises ``LedgerReplacedError``."""
        ...

    async def add_batch(self, drawing: Drawing, batch: Batch, follows: str) -> bool:
        """Keep a batch unless there is one with its index; say whether it was kept.

        Args:
            drawing: whose batch it is.
            batch: the batch.
            follows: digest of the batch before it, or of the order; without that one there, it is not kept.
        """
        ...

    async def hand_out(self, drawing: Drawing, count: int) -> None:
        """Note that the first ``count`` draws are handed out; raises ``LedgerReplacedError``."""
        ...

    async def outcomes(self, drawing: Drawing, items: Sequence[str]) -> list[SampleOutcome]:
        """Return the samples of these items that are in."""
        ...

    def all_outcomes(self, run: str, task: str) -> AsyncGenerator[Sequence[SampleOutcome]]:
        """Yield all samples of a task that are in, in pieces."""
        ...

    async def earlier(self, spec: DrawingSpec) -> list[EarlierDrawing]:
        """Return the drawings of the same data and metric of other runs, oldest first."""
        ...

    async def known_runs(self, runs: Sequence[str]) -> Collection[str]:
        """Return those runs that are known."""
        ...

    async def last_prediction(self, drawing_id: int) -> Prediction | None:
        """Return the predictions of the last of a drawing's batches that has any."""
        ...
