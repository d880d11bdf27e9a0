"""Drawings of a task's items, as plain values: what is asked of them, their order, and what a part of them decides."""

from dataclasses import dataclass
from datetime import datetime

from evalfleet.goals import TaskDecision


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about the mean over all items of a task; exactly one of the first four is given.

    Attributes:
        at_least: is the mean at least this, from 0 to 1?
        at_most: is it at most this?
        precision: how large is it? Answered once its interval is at most this to either side.
        below: is the share of items with score 1 below this small limit?
        alpha: largest probability of a wrong answer, above 0 and up to 0.5.
        false_failure_alpha: that of a false failure of a bound; default: ``alpha``.
    """

    at_least: float | None = None
    at_most: float | None = None
    precision: float | None = None
    below: float | None = None
    alpha: float = 0.05
    false_failure_alpha: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless one thing is asked."""
        if sum(each is not None for each in (self.at_least, self.at_most, self.precision, self.below)) != 1:
            raise ValueError("a question gives one of at_least, at_most, precision and below")


@dataclass(frozen=True, slots=True)
class DrawingSpec:
    """What a drawing is about; the service says more of each field in ``DrawingSpec`` of drawing.proto.

    Attributes:
        run: may be given as ``runs/r1`` or ``r1``.
        task: name of the task.
        metric: what is asked about, from 0 to 1 for each item.
        seed: of the order.
        model: name of the model.
        data_digest: of all that decides what an item's score means; runs that share it are each other's history.
        model_digest: content digest of the model.
        questions: what is asked; empty: an interval and an estimate alone.
        samples: of each item; its score is their mean.
        has_binary_scores: whether every score is 0 or 1.
        use_history: whether earlier runs may steer the drawing; without, the order depends on the seed alone.
        previous_run: the run of the checkpoint before this one.
        history_runs: further runs with the same task, data and metric, oldest first.
        interval_alpha: 1 minus the level of the running interval, where no question is a precision; default: 0.05.
    """

    run: str
    task: str
    metric: str
    seed: int
    model: str
    data_digest: str
    model_digest: str = ""
    questions: tuple[Question, ...] = ()
    samples: int = 1
    has_binary_scores: bool = False
    use_history: bool = True
    previous_run: str = ""
    history_runs: tuple[str, ...] = ()
    interval_alpha: float | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """A task's items in the order in which they are drawn.

    Attributes:
        order_digest: SHA-256 (hex) that commits to the order before the first draw.
        history_runs: the runs whose results steer it, oldest first; empty: draws are uniform.
    """

    spec: DrawingSpec
    item_count: int
    order_digest: str
    history_runs: tuple[str, ...]
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class Draw:
    """A drawn item: its places in the canonical order and in that of draws, from 0, and how probable the draw was."""

    item: str
    position: int
    draw_index: int
    probability: float


@dataclass(frozen=True, slots=True)
class DrawnItems:
    """The next items to evaluate.

    Attributes:
        draws: in the order in which they are drawn; may be fewer than asked for.
        batch: which they belong to, from 0.
        is_exhausted: every item is drawn.
        awaited_count: where there are no draws yet: how many items must be complete first; ``None``: none.
        decision: what is known now.
    """

    draws: tuple[Draw, ...]
    batch: int
    is_exhausted: bool
    awaited_count: int | None
    decision: TaskDecision
