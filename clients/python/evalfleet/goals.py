"""What a run is to find out and may spend, and what it has decided: gates, budgets, decisions.

fleet.runs.start(model="step-100", suite="gsm8k", gates=["gsm8k>=0.55"], budget="2usd,10min")
"""

import datetime
import enum
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

_GATE = re.compile(r"\s*([^\s:<>=]+)(?::([^\s:<>=]+))?\s*(>=|<=)\s*([^\s%]+?)\s*(%?)\s*")
_LIMIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e\+?[0-9]+)?)\s*([a-z_-]+)\s*")
# Unit → field of Budget, and how much of that one is.
_UNITS: dict[str, tuple[str, float]] = {
    "items": ("items", 1),
    "item": ("items", 1),
    "tokens": ("tokens", 1),
    "token": ("tokens", 1),
    "ktokens": ("tokens", 1e3),
    "mtokens": ("tokens", 1e6),
    "engine-seconds": ("engine_seconds", 1),
    "engine-hours": ("engine_seconds", 3600),
    "usd": ("cost_micro_usd", 1e6),
    "cents": ("cost_micro_usd", 1e4),
    "s": ("wall_seconds", 1),
    "min": ("wall_seconds", 60),
    "h": ("wall_seconds", 3600),
}
_WHOLE = ("items", "tokens", "cost_micro_usd")


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on what a model scores on the whole of a task; an empty ``metric`` means the primary one."""

    task: str
    at_least: bool
    threshold: float
    metric: str = ""

    def __str__(self) -> str:
        """``task:metric>=0.55``."""
        metric = f":{self.metric}" if self.metric else ""
        return f"{self.task}{metric}{'>=' if self.at_least else '<='}{self.threshold:g}"

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read ``gsm8k>=0.55``, ``gsm8k>=55%`` or ``harmbench:unsafe<=0.02``.

        Raises:
            ValueError: it is none of these, or the threshold is not from 0 to 1.
        """
        match = _GATE.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            threshold = float(match[4]) / (100 if match[5] else 1)
        except ValueError:
            raise ValueError(f"{text!r} is not TASK>=NUMBER, TASK<=NUMBER or TASK:METRIC>=NUMBER") from None
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold of {text!r} is not from 0 to 1; write 55 % as 0.55 or 55%")
        return cls(match[1], match[3] == ">=", threshold, match[2] or "")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; ``None`` is not limited. What each limit means: ``Budget`` in evaluation.proto."""

    items: int | None = None
    tokens: int | None = None
    engine_seconds: float | None = None
    cost_micro_usd: int | None = None
    wall_seconds: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, each.name) is not None for each in fields(self))

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read limits with units and commas between them: ``2usd``, ``5000items,10min``, ``1.5Mtokens``.

        Raises:
            ValueError: a limit has no known unit, is not above zero, or limits what another limits already.
        """
        limits: dict[str, float] = {}
        for part in text.lower().split(","):
            match = _LIMIT.fullmatch(part)
            if match is None or match[2] not in _UNITS:
                raise ValueError(f"{part.strip()!r} is not a number with one of the units {', '.join(_UNITS)}")
            name, factor = _UNITS[match[2]]
            if name in limits:
                raise ValueError(f"{text!r} limits {name} twice")
            limits[name] = float(match[1]) * factor
            least = 1 if name in _WHOLE else 0
            if limits[name] < least or limits[name] == 0 or not math.isfinite(limits[name]):
                raise ValueError(f"{part.strip()!r} leaves nothing to spend")
        whole = {name: round(limits[name]) for name in _WHOLE if name in limits}
        return cls(
            items=whole.get("items"),
            tokens=whole.get("tokens"),
            engine_seconds=limits.get("engine_seconds"),
            cost_micro_usd=whole.get("cost_micro_usd"),
            wall_seconds=limits.get("wall_seconds"),
        )


NO_BUDGET = Budget()
"""Nothing is limited."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What a run has spent, counted as its budget is."""

    items: int = 0
    tokens: int = 0
    engine_seconds: float = 0.0
    cost_micro_usd: int = 0
    wall_seconds: float = 0.0


class StopReason(enum.StrEnum):
    """Why a run that succeeded did not go on; UNKNOWN while it does, or if this version does not know the reason."""

    UNKNOWN = "unknown"
    COMPLETE = "complete"
    DECIDED = "decided"
    GATE_FAILED = "gate_failed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    CALLER_BUDGET_EXHAUSTED = "caller_budget_exhausted"


class ModelChange(enum.StrEnum):
    """What is new in a model; one that this version does not know is MAJOR."""

    UNCHANGED = "unchanged"
    ADAPTER = "adapter"
    MINOR = "minor"
    MAJOR = "major"


@dataclass(frozen=True, slots=True)
class TierChoice:
    """Why a run that left its tier to the suite has the one that it has.

    Attributes:
        change: what was found to be new in its model, or what the caller said.
        compared_run: the run whose model it was compared with; empty: there is none, or the caller said what is new.
        reason: in one line.
    """

    change: ModelChange
    compared_run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tier:
    """How deep runs go that name this tier of a suite.

    Attributes:
        precision: half-width at which a task without a gate stops; ``None``: it is run in full.
        stops_at_failure: whether the first gate that fails ends the run.
        starts_for: runs of the tier ``auto`` begin here for these changes.
        sample_count, temperature: of generated answers; ``None``: as each task says.
        safety_judge: policy or guard in place of the tasks' own; empty: as each task says.
    """

    name: str
    gates: tuple[Gate, ...]
    precision: float | None
    budget: Budget
    stops_at_failure: bool
    starts_for: tuple[ModelChange, ...]
    sample_count: int | None = None
    temperature: float | None = None
    safety_judge: str = ""


class Answer(enum.StrEnum):
    """Answer to a question; one that this version does not know is UNDECIDED."""

    UNDECIDED = "undecided"
    PASSED = "passed"
    FAILED = "failed"
    REACHED = "reached"


@dataclass(frozen=True, slots=True)
class QuestionDecision:
    """A question, as ``>=0.55`` or ``±0.02``, and its answer.

    Attributes:
        is_gate: whether it passes or fails; else it is a precision, which is reached.
        decided_after: number of items after which it was decided; ``None`` before.
    """

    question: str
    is_gate: bool
    answer: Answer
    decided_after: int | None


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """What is decided about a task from a part of its items.

    Attributes:
        value: estimate of the metric over all of its items; ``None`` before the first.
        lower, upper: an interval for that which holds whenever one stops, at ``confidence_level``.
        completed_count: items that count, in the order in which they were drawn.
        drawn_count: items drawn.
        item_count: items of the task.
        saved_count: items that have no result.
        is_exact: every item is in.
    """

    task: str
    metric: str
    questions: tuple[QuestionDecision, ...]
    is_decided: bool
    value: float | None
    lower: float
    upper: float
    confidence_level: float
    completed_count: int
    drawn_count: int
    item_count: int
    saved_count: int
    unknown_count: int
    is_exact: bool
    draws_digest: str = ""


class CostBasis(enum.StrEnum):
    """Where a predicted cost comes from: an earlier run of this model or of another, or the length of the prompts."""

    UNKNOWN = "unknown"
    SAME_MODEL = "same_model"
    OTHER_MODEL = "other_model"
    PROMPTS = "prompts"


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What a task would probably cost: ``expected`` for the ``expected_item_count`` items that its questions take."""

    task: str
    item_count: int
    expected_item_count: int
    expected: Spend
    basis: CostBasis
    basis_run: str


@dataclass(frozen=True, slots=True)
class CallerBudget:
    """What a caller may spend in a day (UTC) over all of its runs, and what of it is spent and reserved today.

    Attributes:
        pattern: the line of the operator's file that fits the caller; ``*`` for everybody else.
        limit: limits nothing where the caller has no budget; its spending is not counted then.
        reserved: for items in flight.
        reset_time: when the next day begins.
    """

    caller: str
    pattern: str
    day: str
    limit: Budget
    spent: Spend
    reserved: Spend
    reset_time: datetime.datetime


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would probably cost.

    Attributes:
        expected: cut to the run's budget, and to what is left of its caller's.
        exceeds_budget: whether the run's budget will end it.
        exceeds_caller_budget: whether the caller's will.
        caller_budget: None where the caller has none.
    """

    tasks: tuple[TaskPlan, ...]
    expected: Spend
    exceeds_budget: bool
    exceeds_caller_budget: bool = False
    caller_budget: CallerBudget | None = None


class Outcome(enum.StrEnum):
    """What the gates of a run say together."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


def outcome_of(decisions: Iterable[TaskDecision], gate_count: int) -> Outcome:
    """Say what a run's gates came to: FAILED if one failed, PASSED if each of ``gate_count`` passed, else UNDECIDED."""
    answers = [each.answer for decision in decisions for each in decision.questions if each.is_gate]
    if Answer.FAILED in answers:
        return Outcome.FAILED
    if gate_count and answers.count(Answer.PASSED) == gate_count:
        return Outcome.PASSED
    return Outcome.UNDECIDED
