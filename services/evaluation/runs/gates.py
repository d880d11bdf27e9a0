"""What a run is to find out: gates and a precision, and how they become the questions of its tasks."""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.model_changes import ModelChange, TierChoice
from services.evaluation.suite_specification import GATE_PATTERN
from services.evaluation.tasks import Suite, Task
from services.runtime.errors import InvalidArgumentError, not_found

DEFAULT_CONFIDENCE = 0.95


class Direction(enum.Enum):
    """Which side of a gate's threshold passes; the threshold itself does."""

    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on a task's metric over all of its items; an empty ``metric`` means the primary one."""

    task: str
    direction: Direction
    threshold: float
    metric: str = ""

    def __str__(self) -> str:
        """``task:metric>=threshold``."""
        metric = f":{self.metric}" if self.metric else ""
        return f"{self.task}{metric}{self.direction.value}{self.threshold:g}"


def parsed_gate(text: str) -> Gate:
    """The gate that ``text`` writes; it matches ``GATE_PATTERN``."""
    match = re.match(GATE_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not TASK>=NUMBER, TASK<=NUMBER or TASK:METRIC>=NUMBER")
    task, metric, direction, threshold = match.groups()
    return Gate(task, Direction(direction), float(threshold), metric or "")


@dataclass(frozen=True, slots=True)
class Depth:
    """How often items are asked and who judges their safety; ``None`` leaves it to the task.

    Attributes:
        sample_count, temperature: of generated answers.
        guard, policy, threshold: see ``JudgeChoice``; all ``None``: the task's judge.
    """

    sample_count: int | None = None
    temperature: float | None = None
    guard: str | None = None
    policy: str | None = None
    threshold: float | None = None

    @property
    def replaces_judge(self) -> bool:
        """Whether somebody else than the tasks say judges safety."""
        return not (self.guard is None and self.policy is None and self.threshold is None)


@dataclass(frozen=True, slots=True)
class GoalWish:
    """What a caller asks for; ``None`` and empty leave it to the tier, and then to the defaults. See ``Goal``.

    Attributes:
        escalates: whether the next tier follows one in which no gate has failed.
        change: what is new in the model, for the tier ``auto``; ``None``: find out.
    """

    gates: tuple[Gate, ...] = ()
    precision: float | None = None
    confidence: float | None = None
    budget: Budget = field(default_factory=Budget)
    tier: str = ""
    uses_history: bool | None = None
    stops_at_failure: bool | None = None
    previous_run: str = ""
    escalates: bool = False
    change: ModelChange | None = None
    depth: Depth = field(default_factory=Depth)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a run is to find out, and what that may cost.

    Attributes:
        gates: their metrics filled in.
        precision: half-width of the interval at which a task without a gate stops; ``None``: it is run in full.
        confidence: 1 minus the probability that any decision of the run is wrong.
        budget: what it may spend.
        tier: the tier that it was asked for; empty: none.
        uses_history: whether earlier results choose which items are drawn first.
        stops_at_failure: whether the first gate that fails ends the run.
        previous_run: the run, ``runs/{run}``, of the checkpoint before this one; empty: none is known.
        has_caller_budget: whether its caller may spend only so much a day.
        tier_choice: why it has its tier, where that was left to the suite.
        depth: how its tasks' items are asked and judged.
    """

    gates: tuple[Gate, ...] = ()
    precision: float | None = None
    confidence: float = DEFAULT_CONFIDENCE
    budget: Budget = field(default_factory=Budget)
    tier: str = ""
    uses_history: bool = True
    stops_at_failure: bool = False
    previous_run: str = ""
    has_caller_budget: bool = False
    tier_choice: TierChoice | None = None
    depth: Depth = field(default_factory=Depth)

    @property
    def is_metered(self) -> bool:
        """Whether a budget may end the run before its items do, so that what it spends is counted."""
        return self.budget.is_limited or self.has_caller_budget

    @property
    def draws(self) -> bool:
        """Whether any task's items are drawn by the aggregation service rather than taken in the seeded order."""
        return bool(self.gates) or self.precision is not None or self.is_metered


@dataclass(frozen=True, slots=True)
class Precision:
    """Stop when the interval reaches at most ``half_width`` to either side."""

    half_width: float


@dataclass(frozen=True, slots=True)
class TaskQuestions:
    """What is asked of one task: all of it about one metric.

    Attributes:
        questions: none where only the interval is wanted.
        alpha: probability of a wrong answer that each question, and the interval, may have.
    """

    task: str
    metric: str
    questions: tuple[Gate | Precision, ...]
    alpha: float


def with_metrics(goal_gates: Sequence[Gate], suite: Suite) -> tuple[Gate, ...]:
    """The gates with the metrics that they leave to their tasks.

    Raises:
        NotFoundError: a gate names a task that the suite does not have, or a metric that its task does not have.
        InvalidArgumentError: GATES_OF_TWO_METRICS: one draw of items answers questions about one metric.
    """
    tasks = {task.name: task for task in suite.tasks}
    filled = []
    for gate in goal_gates:
        if gate.task not in tasks:
            raise not_found(f"task of suite {suite.name}", gate.task, tasks)
        filled.append(Gate(gate.task, gate.direction, gate.threshold, _metric(gate, tasks[gate.task])))
    metrics: dict[str, str] = {}
    for gate in filled:
        if metrics.setdefault(gate.task, gate.metric) != gate.metric:
            raise InvalidArgumentError(
                f"the gates of task {gate.task!r} are about {metrics[gate.task]!r} and {gate.metric!r}; "
                "start a run for each of them: the second finds the first one's answers in the cache",
                reason="GATES_OF_TWO_METRICS",
                metadata={"task": gate.task},
            )
    return tuple(filled)


def _metric(gate: Gate, task: Task) -> str:
    if not gate.metric:
        return task.spec.primary_metric
    names = [metric.name for metric in task.spec.metrics]
    if gate.metric not in names:
        raise not_found(f"metric of task {task.name}", gate.metric, names)
    return gate.metric


def questions_of(goal: Goal, tasks: Sequence[Task]) -> Mapping[str, TaskQuestions]:
    """What is asked of each task whose items are drawn, by its name.

    The run's alpha is split evenly over all questions (Bonferroni), so that the chance of any wrong decision in the run
    stays below it, however the tasks depend on each other. A task that is drawn only because there is a budget has no
    question; its interval takes the share of one.
    """
    asked: dict[str, tuple[str, tuple[Gate | Precision, ...]]] = {}
    for task in tasks:
        gates = tuple(gate for gate in goal.gates if gate.task == task.name)
        if gates:
            asked[task.name] = (gates[0].metric, gates)
        elif goal.precision is not None:
            asked[task.name] = (task.spec.primary_metric, (Precision(goal.precision),))
        elif goal.is_metered:
            asked[task.name] = (task.spec.primary_metric, ())
    count = sum(max(1, len(questions)) for _, questions in asked.values())
    alpha = (1 - goal.confidence) / max(1, count)
    return {name: TaskQuestions(name, metric, questions, alpha) for name, (metric, questions) in asked.items()}
