"""What a run is: its request, its state and its progress."""

import dataclasses
import enum
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.gates import Goal, GoalWish
from services.evaluation.runs.model_changes import ModelContent
from services.runtime.errors import FleetError


class RunState(enum.Enum):
    """What a run is doing. The last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run will never change again."""
        return self not in (RunState.PENDING, RunState.RUNNING)


class StopReason(enum.Enum):
    """Why a run that succeeded did not go on."""

    COMPLETE = "complete"
    DECIDED = "decided"
    GATE_FAILED = "gate_failed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    CALLER_BUDGET_EXHAUSTED = "caller_budget_exhausted"


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run could not go on: gRPC status code number, reason, one line for people, details."""

    code: int
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_error(cls, error: FleetError) -> "RunFailure":
        """Keep the parts of ``error`` that outlive the process."""
        return cls(int(error.code.value[0]), error.reason, error.message, dict(error.metadata))


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far one task is; ``item_count`` is None and ``data_digest`` empty until its data set has been read."""

    task: str
    item_count: int | None = None
    scored_count: int = 0
    failed_count: int = 0
    data_digest: str = ""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller asks for; None means that the service chooses."""

    suite: str
    model: str
    run_id: str | None = None
    seed: int | None = None
    item_limit: int | None = None
    tasks: tuple[str, ...] = ()
    concurrency: int | None = None
    request_id: str | None = None
    priority: int = 0
    wish: GoalWish = field(default_factory=GoalWish)


@dataclass(frozen=True, slots=True)
class Escalation:
    """What the runs of one request that goes on from tier to tier have in common.

    Attributes:
        wish: what the caller asked for; its budget is that of all tiers together.
        tasks: the tasks asked for; empty: all of the suite.
        earlier_run: the run, ``runs/{run}``, of the tier before this one; empty for the first.
        next_run: the run of the tier after this one; empty as long as, or if, there is none.
        budget: what is left for this run and those after it.
    """

    wish: GoalWish
    tasks: tuple[str, ...]
    earlier_run: str = ""
    next_run: str = ""
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation of one model with one suite. Times are seconds since the epoch; ``caller`` is who asked for it.

    Of the runs that wait, those with the highest ``priority`` come first. The digests tell what the model is made of:
    see ``ModelContent``.
    ``spent`` is counted only where a budget, the run's or the caller's, may end it.
    """

    run_id: str
    suite: str
    suite_digest: str
    model: str
    model_digest: str
    seed: int
    concurrency: int
    create_time: float
    item_limit: int | None = None
    tasks: tuple[str, ...] = ()
    request_id: str | None = None
    state: RunState = RunState.PENDING
    failure: RunFailure | None = None
    start_time: float | None = None
    end_time: float | None = None
    progress: tuple[TaskProgress, ...] = ()
    caller: str | None = None
    priority: int = 0
    goal: Goal = field(default_factory=Goal)
    decisions: tuple[TaskDecision, ...] = ()
    spent: Spend = field(default_factory=Spend)
    stop_reason: StopReason | None = None
    base_digest: str | None = None
    lineage_digest: str | None = None
    escalation: Escalation | None = None

    @property
    def content(self) -> ModelContent:
        """What its model is."""
        return ModelContent(self.model_digest, self.base_digest or "", self.lineage_digest or "")

    @property
    def name(self) -> str:
        """Resource name, ``runs/{run}``."""
        return f"runs/{self.run_id}"

    @property
    def is_of_ranking(self) -> bool:
        """Whether it is a model's part in a ranking: of those alone items are drawn without a goal of their own."""
        return bool(self.decisions) and not self.goal.draws

    def with_progress(self, progress: TaskProgress) -> "Run":
        """The same run with one task's progress replaced."""
        return dataclasses.replace(
            self, progress=tuple(progress if each.task == progress.task else each for each in self.progress)
        )

    def with_decision(self, decision: TaskDecision) -> "Run":
        """The same run with what is decided about one task replaced."""
        others = (each for each in self.decisions if each.task != decision.task)
        return dataclasses.replace(self, decisions=tuple(sorted((*others, decision), key=lambda each: each.task)))


def new_run_id(suite: str) -> str:
    """Make a run id that says which suite it is, unique by 32 random bits."""
    stem = re.sub(r"[^a-z0-9]+", "-", suite.lower()).strip("-")[:50]
    if not stem or not stem[0].isalpha():
        stem = f"run-{stem}".rstrip("-")
    return f"{stem}-{secrets.token_hex(4)}"
