"""What becomes of one item: scores or a typed failure, with its cost and its judges."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.runtime.errors import FleetError
from services.runtime.usage import Usage


@dataclass(frozen=True, slots=True)
class JudgeReference:
    """Which exact scorer or guard judged."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no scores, and what its metrics count as (a metric that is absent leaves the item out)."""

    reason: str
    message: str
    counted_as: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_error(cls, error: FleetError, counted_as: Mapping[str, float]) -> "Failure":
        """A failure with the error's reason and message."""
        return cls(error.reason, error.message, counted_as)


@dataclass(frozen=True, slots=True)
class MetricFailure:
    """Why some metrics of an answered item have no value; those that are not in ``counted_as`` are not known."""

    metrics: tuple[str, ...]
    reason: str
    message: str
    counted_as: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """The one outcome of one sample of one item; exactly one of ``metrics`` and ``failure`` is not None.

    ``metric_failures`` are about metrics that are not in ``metrics``; of an item that failed as a whole, ``failure``
    says what they count as.
    """

    task: str
    item: str
    sample: int
    draw_index: int
    metrics: Mapping[str, float] | None
    failure: Failure | None
    groups: Mapping[str, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    judges: tuple[JudgeReference, ...] = ()
    model_digest: str = ""
    prompt: str = ""
    output: str = ""
    extracted_answer: str | None = None
    truncated: bool = False
    complete_time: float = 0.0
    metric_failures: tuple[MetricFailure, ...] = ()
    targets: tuple[str, ...] = ()
    traceparent: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Refuse an outcome that is both or neither."""
        if (self.metrics is None) == (self.failure is None):
            raise ValueError("an outcome is either metrics or a failure")
