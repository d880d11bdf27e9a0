"""Drawings, and a way to play them to their end, for the tests of drawings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.aggregation.drawings.orders import order_digest, order_seed
from services.aggregation.drawings.records import Batch, Drawing, DrawingSpec, PastResults
from services.aggregation.drawings.scores import SampleOutcome
from services.aggregation.drawings.sequencer import Sequencer

SpecFactory = Callable[..., DrawingSpec]
DrawingFactory = Callable[..., Drawing]


@pytest.fixture(scope="session")
def spec() -> SpecFactory:
    """Make a spec; keywords are its fields."""

    def make(**fields: Any) -> DrawingSpec:
        given: dict[str, Any] = {
            "run": "runs/r",
            "task": "t",
            "metric": "acc",
            "seed": 7,
            "model": "models/m",
            "model_digest": "m",
            "data_digest": "d",
        }
        return DrawingSpec(**(given | fields))

    return make


@pytest.fixture(scope="session")
def drawing(spec: SpecFactory) -> DrawingFactory:
    """Make a drawing of some items; keywords are fields of its spec."""

    def make(size: int, **fields: Any) -> Drawing:
        made, ids = spec(**fields), tuple(f"item-{index}" for index in range(size))
        seed = order_seed(made)
        return Drawing(1, "", made, ids, seed, order_digest(seed, ids), (), 0)

    return make


def past_of(scores: NDArray[np.float64], *, is_sequence: bool = True) -> PastResults:
    """A history of runs without names."""
    return PastResults(tuple(f"runs/{index}" for index in range(len(scores))), scores, is_sequence=is_sequence)


def outcomes_of(items: Sequence[str], values: Sequence[float]) -> list[SampleOutcome]:
    """One scored sample of each item."""
    return [SampleOutcome(item, 0, {"acc": float(value)}) for item, value in zip(items, values, strict=True)]


class Player:
    """Plays a drawing: hands out a window of items, and lets them come back as it likes.

    Args:
        drawing: that is played.
        past: its history.
        scores: of all items.
        window: items in flight at once.
        seed: of the order in which items come back.
    """

    def __init__(
        self, drawing: Drawing, past: PastResults | None, scores: NDArray[np.float64], *, window: int, seed: int
    ) -> None:
        self.drawing = drawing
        self.past = past
        self.sequencer = Sequencer(drawing, past)
        self.batches: list[Batch] = []
        self.returned: list[SampleOutcome] = []
        self._scores = scores
        self._window = window
        self._random = np.random.default_rng(seed)
        self._in_flight: list[int] = []

    def step(self) -> bool:
        """Fill the window, then let some items come back; False once every item is in."""
        sequencer = self.sequencer
        while len(self._in_flight) < self._window:
            first = sequencer.drawn_count
            if first == sequencer.end and sequencer.can_draw:
                self.batches.append(sequencer.next_batch())
            drawn = sequencer.draws(first, self._window - len(self._in_flight))
            if not drawn.draws:
                break
            self._in_flight += [each.position for each in drawn.draws]
        if not self._in_flight:
            return False
        self._random.shuffle(self._in_flight)
        count = int(self._random.integers(1, len(self._in_flight) + 1))
        back, self._in_flight = self._in_flight[:count], self._in_flight[count:]
        came = outcomes_of([self.drawing.item_ids[each] for each in back], self._scores[back].tolist())
        sequencer.take(came)
        self.returned += came
        return True

    def play(self, *, until_decided: bool = False) -> Sequencer:
        """Go on to the end, or until every question is decided."""
        while not (until_decided and self.sequencer.decision().is_decided) and self.step():
            pass
        return self.sequencer

    def rebuilt(self) -> Sequencer:
        """What a restart makes of the stored batches and results."""
        sequencer = Sequencer(self.drawing, self.past)
        for batch in self.batches:
            sequencer.replay(batch)
        sequencer.hand_out(self.sequencer.drawn_count)
        sequencer.take(self.returned)
        return sequencer
