"""What a drawing is, as the domain sees it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.aggregation.sequential.questions import Decision, GateRule, PrecisionRule, RareRule

Question = GateRule | PrecisionRule | RareRule

DEFAULT_INTERVAL_ALPHA = 0.05
INTERVAL_METHOD = "betting-without-replacement"


@dataclass(frozen=True, slots=True)
class DrawingSpec:
    """What is asked about which items, and what may steer their order; see ``DrawingSpec`` in drawing.proto.

    Attributes:
        questions: about the metric's mean over all items.
        samples: of each item.
        has_binary_scores: every score is 0 or 1.
        uses_history: earlier runs may steer the order.
        previous_run: the run that predicts best; empty: the latest of the history.
        history_runs: further runs that may be used, oldest first.
        interval_alpha: of the running interval, where no question is a precision.
    """

    run: str
    task: str
    metric: str
    seed: int
    model: str
    model_digest: str
    data_digest: str
    questions: tuple[Question, ...] = ()
    samples: int = 1
    has_binary_scores: bool = False
    uses_history: bool = True
    previous_run: str = ""
    history_runs: tuple[str, ...] = ()
    interval_alpha: float = DEFAULT_INTERVAL_ALPHA

    @property
    def is_uniform(self) -> bool:
        """A rare rate's evidence is exact, and valid, for uniform draws alone."""
        return not self.uses_history or any(isinstance(each, RareRule) for each in self.questions)

    @property
    def confidence_level(self) -> float:
        """Of the running interval."""
        alphas = (each.alpha for each in self.questions if isinstance(each, PrecisionRule))
        return 1 - next(alphas, self.interval_alpha)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing as it is stored.

    Attributes:
        drawing_id: of its row, in this incarnation of the database.
        incarnation: see ``incarnations``.
        item_ids: in the task's canonical order.
        order_seed: of the draws; see ``orders.order_seed``.
        order_digest: commits to the order before the first draw; see ``orders.order_digest``.
        history_runs: the runs whose results predict scores, oldest first.
        create_microseconds: since 1970 (UTC).
    """

    drawing_id: int
    incarnation: str
    spec: DrawingSpec
    item_ids: tuple[str, ...]
    order_seed: int
    order_digest: str
    history_runs: tuple[str, ...]
    create_microseconds: int


@dataclass(frozen=True, slots=True)
class PastResults:
    """Scores of earlier runs on a drawing's items, frozen when it was created.

    Attributes:
        runs: names, oldest first.
        scores: from 0 to 1, NaN where there is none, [runs, items].
        predicted: what was expected of items that a run did not reach, NaN where nothing was, [runs, items]; ``None``
            if all of it is NaN.
        is_sequence: the last run is the checkpoint before this one, so the runs are taken for those of one training.
    """

    runs: tuple[str, ...]
    scores: NDArray[np.float64]
    predicted: NDArray[np.float64] | None = None
    is_sequence: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are drawn with the same predictions and weights.

    Attributes:
        index: from 0.
        first_draw_index: of its first item.
        positions: in draw order, [draws].
        predictions: of all items, [items]; ``None``: there are none.
        weights: of all items; ``None``: all alike.
        variances: what the predictor expects the squared errors to be, of all items; ``None``: it says nothing.
        digest: SHA-256 (hex) over the batch and those before it.
    """

    index: int
    first_draw_index: int
    positions: NDArray[np.int64]
    predictions: NDArray[np.float32] | None
    weights: NDArray[np.float32] | None
    variances: NDArray[np.float32] | None
    digest: str = ""

    @property
    def end(self) -> int:
        """The draw index after its last item's."""
        return self.first_draw_index + len(self.positions)


@dataclass(frozen=True, slots=True)
class Draw:
    """One drawn item."""

    position: int
    item_id: str
    draw_index: int
    probability: float


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """What a drawing's results decide; see ``TaskDecision`` in drawing.proto.

    Attributes:
        questions: each with its answer.
        value: estimate of the mean over all items; ``None`` before the first.
        completed_count: the longest prefix of draws of which every item is in.
        drawn_count: items handed out.
        unknown_count: counted items whose score is not known.
        expected_remaining: rough number of items that decide all questions; ``None`` if nothing is known.
        is_weighted: some items were likelier to be drawn than others.
    """

    spec: DrawingSpec
    questions: tuple[tuple[Question, Decision], ...]
    is_decided: bool
    lower: float
    upper: float
    value: float | None
    completed_count: int
    drawn_count: int
    item_count: int
    evaluated_count: int
    unknown_count: int
    draws_digest: str
    expected_remaining: int | None = None
    is_weighted: bool = False

    @property
    def saved_count(self) -> int:
        """Items without a result."""
        return self.item_count - self.evaluated_count

    @property
    def is_exact(self) -> bool:
        """Every item is in."""
        return self.completed_count == self.item_count


@dataclass(frozen=True, slots=True)
class DrawnScores:
    """The scores of the completed prefix of a drawing's draws, and what they decide by themselves.

    Attributes:
        order_digest: of the drawing; see ``Drawing``.
        low: the least that each draw's score can be, in draw order, [completed]; a copy.
        high: the most.
    """

    decision: TaskDecision
    order_digest: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def spec(self) -> DrawingSpec:
        """What is asked about which items."""
        return self.decision.spec

    @property
    def item_count(self) -> int:
        """Items of the task."""
        return self.decision.item_count


@dataclass(frozen=True, slots=True)
class DrawnItems:
    """The next items, or how many results the next batch waits for.

    Attributes:
        draws: in draw order, of one batch.
        batch: its index.
        is_exhausted: no item is left after these.
        awaited_count: set if there are no draws yet.
        decision: what is known now.
    """

    draws: tuple[Draw, ...]
    batch: int
    is_exhausted: bool
    awaited_count: int | None
    decision: TaskDecision
