"""What every checkpoint of a training is asked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from evalfleet.goals import Budget, Gate

if TYPE_CHECKING:
    from evalfleet.fleet import Fleet
    from evalfleet.results import Run


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A suite, and how it is run; what the fields mean says ``evalfleet.runs.Runs.start``.

    ``dtype`` and ``engine`` say how the checkpoints are computed, as in ``evalfleet.models.Models.add``.
    """

    suite: str
    tasks: tuple[str, ...] = ()
    item_limit: int | None = None
    gates: tuple[Gate | str, ...] = ()
    precision: float | None = None
    confidence: float | None = None
    budget: Budget | str | None = None
    tier: str = ""
    escalate: bool = False
    stop_at_failure: bool | None = None
    sample_count: int | None = None
    temperature: float | None = None
    seed: int | None = None
    concurrency: int | None = None
    priority: int = 0
    dtype: str | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        """Read gates and budget, so that a mistake shows when the training begins and not at its first checkpoint.

        Raises:
            ValueError: one of them cannot be read.
        """
        for each in self.gates:
            if isinstance(each, str):
                Gate.parse(each)
        if isinstance(self.budget, str):
            Budget.parse(self.budget)

    def as_dict(self) -> Mapping[str, object]:
        """Return plain values, from which a digest can be made."""
        return asdict(self)

    def start(self, fleet: "Fleet", model: str, *, request_id: str, previous_run: str) -> "Run":
        """Start the run of a registered model; a repetition with the same ``request_id`` returns the first one's."""
        return fleet.runs.start(
            model=model,
            suite=self.suite,
            tasks=self.tasks,
            item_limit=self.item_limit,
            gates=self.gates,
            precision=self.precision,
            confidence=self.confidence,
            budget=self.budget,
            tier=self.tier,
            escalate=self.escalate,
            stop_at_failure=self.stop_at_failure,
            sample_count=self.sample_count,
            temperature=self.temperature,
            seed=self.seed,
            concurrency=self.concurrency,
            priority=self.priority,
            previous_run=previous_run,
            request_id=request_id,
        )
