"""What a fleet found about a checkpoint, with the training step that it belongs to."""

from dataclasses import dataclass
from typing import NamedTuple

from evalfleet.goals import Outcome
from evalfleet.results import Estimate, RunSnapshot, RunState, TaskTotals


class PassedCheckpoint(NamedTuple):
    """A checkpoint whose gates all passed.

    Attributes:
        step: the training step at which it was saved.
        checkpoint: its folder, as it was submitted.
        kept: a folder of links to its weights, where the trainer may remove ``checkpoint``; empty for none.
    """

    step: int
    checkpoint: str
    kept: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """The evaluation of one checkpoint, or why there is none.

    Attributes:
        step: the training step at which it was saved.
        checkpoint: its folder, as it was submitted.
        model: what the fleet calls it; empty if it was never registered.
        run: its last run; empty if none was started.
        outcome: what the gates say together; UNDECIDED without gates.
        failure: why there is no complete result, in one line; empty if there is.
        snapshot: the run with its estimates and totals; ``None`` if there is none.
    """

    step: int
    checkpoint: str
    model: str = ""
    run: str = ""
    outcome: Outcome = Outcome.UNDECIDED
    failure: str = ""
    snapshot: RunSnapshot | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end."""
        return self.snapshot is not None and self.snapshot.run.state is RunState.SUCCEEDED

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """The estimates of all tasks, those of groups of items included."""
        return self.snapshot.estimates if self.snapshot else ()

    @property
    def totals(self) -> tuple[TaskTotals, ...]:
        """Outcomes and cost of each task."""
        return self.snapshot.totals if self.snapshot else ()

    @property
    def cost_usd(self) -> float:
        """What its items cost."""
        return sum(each.cost_usd for each in self.totals)

    @property
    def computed_tokens(self) -> int:
        """Tokens that were computed for it: by the model, by judges and by guards."""
        return sum(each.computed_tokens for each in self.totals)

    def metrics(self, prefix: str = "evalfleet/") -> dict[str, float]:
        """Return numbers for a logger: ``evalfleet/TASK/METRIC`` with ``_lower`` and ``_upper``, cost, and the step.

        A metric that is decided from a part of the items is the estimate for the whole task.
        """
        named: dict[str, float] = {f"{prefix}step": self.step}
        for each in self.estimates:
            drawn = each.task_value is not None
            value = each.task_value if drawn else each.value
            interval = each.task_interval if drawn else each.interval
            if each.group or value is None:
                continue
            key = f"{prefix}{each.task}/{each.metric}"
            named[key] = value
            if interval is not None:
                named[f"{key}_lower"], named[f"{key}_upper"] = interval.lower, interval.upper
        if self.snapshot is not None:
            named[f"{prefix}cost_usd"] = self.cost_usd
            named[f"{prefix}computed_tokens"] = self.computed_tokens
            named[f"{prefix}failed_items"] = sum(each.failed_count for each in self.totals)
            if self.snapshot.run.gates:
                named[f"{prefix}gates_passed"] = float(self.outcome is Outcome.PASSED)
        return named
