"""What the evaluation service says of its runs, as plain values."""

import enum
from dataclasses import dataclass
from datetime import datetime

from evalfleet.estimate_results import Estimate, SetMeasure, TaskTotals
from evalfleet.goals import NO_BUDGET, Budget, Gate, Spend, StopReason, TaskDecision, TierChoice


class RunState(enum.StrEnum):
    """What a run is doing."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far one task of a run is; ``item_count`` is ``None`` until its data set has been read.

    ``data_digest`` is over definition and rows: tasks with the same one ask the same; empty until they have been read.
    """

    task: str
    item_count: int | None
    scored_count: int
    failed_count: int
    data_digest: str = ""

    @property
    def done_count(self) -> int:
        """Items with an outcome, scored or failed."""
        return self.scored_count + self.failed_count


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation of one model with one suite; ``failure`` says why it failed, in one line.

    Attributes:
        tier_choice: why it has its tier, where that was left to the suite.
        escalates: whether the next tier follows when no gate has failed.
        earlier_run, next_run: the runs of the tiers before and after this one; empty where there is none (yet).
        sample_count, temperature: of generated answers; ``None``: as each task says.
        caller: who asked for it; empty where nobody said so.
    """

    name: str
    suite: str
    suite_digest: str
    model: str
    model_digest: str
    state: RunState
    failure: str
    seed: int
    item_limit: int | None
    tasks: tuple[TaskProgress, ...]
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    stop_reason: StopReason = StopReason.UNKNOWN
    gates: tuple[Gate, ...] = ()
    precision: float | None = None
    confidence: float = 0.95
    budget: Budget = NO_BUDGET
    spend: Spend | None = None
    tier: str = ""
    decisions: tuple[TaskDecision, ...] = ()
    tier_choice: TierChoice | None = None
    escalates: bool = False
    earlier_run: str = ""
    next_run: str = ""
    sample_count: int | None = None
    temperature: float | None = None
    caller: str = ""

    @property
    def is_of_ranking(self) -> bool:
        """Whether it is a model's part in a ranking: those alone have decisions without anything to decide or spend."""
        return bool(self.decisions) and not self.gates and self.precision is None and self.spend is None

    @property
    def seconds(self) -> float | None:
        """Seconds from its first item to its end; ``None`` before it has ended."""
        if self.start_time is None or self.end_time is None:
            return None
        return (self.end_time - self.start_time).total_seconds()


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run at one moment, with its estimates and totals so far.

    ``events`` are what a watched run has come through since the snapshot before: states, and decisions of which some
    are new. A later watch with ``resume_token`` goes on behind them. ``set_measures`` are there if they were asked for.
    """

    run: Run
    estimates: tuple[Estimate, ...]
    totals: tuple[TaskTotals, ...]
    events: tuple[RunState | TaskDecision, ...] = ()
    resume_token: str = ""
    set_measures: tuple[SetMeasure, ...] = ()
